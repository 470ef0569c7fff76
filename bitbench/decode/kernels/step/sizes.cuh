// The launcher gives, as macros: HIDDEN INTER LAYERS HEADS KV_HEADS HEAD_DIM VOCAB EPS; BITS and HEAD_BITS (16, 8 or 4)
// of the layers' and lm_head's weights; UNIT, O_UNIT and HEAD_UNIT, inputs of a unit of these (tile.cuh); QKV_BIAS,
// QK_NORM, TIED, BF16 (0 or 1); CHUNK, positions that a warp attends to at a time; O_PARTS and DOWN_PARTS, into how many parts the inputs of o and down are cut; WARPS that
// multiply; NUM_GRANULES of the ring; IN_FLIGHT and IN_FLIGHT_BUSY, granules asked for and not there yet, at most, while a
// block waits for others and while it multiplies, but for lm_head's;
// SPREAD, how many sectors of L2 apart neighbouring ones of what down sends lie; SEQUENCES that are decoded at once, up to
// 8; ATTENDING, how many blocks are for attention alone; MOST_QKV, MOST_O,
// MOST_GATE_UP, MOST_DOWN and MOST_HEAD, how many tiles of each a block has at most; BATCH_QKV and so on, how many
// of them are multiplied between two synchronisations.
// For diagnosis: PROFILE 1 keeps when each block reached each place; FREE 1 lets nobody wait for another block, so what
// is computed means nothing; DELAY makes every warp sleep, up to so many nanoseconds, another time each time.

#ifndef PROFILE
#define PROFILE 0
#endif
#ifndef FREE
#define FREE 0
#endif
#ifndef DELAY
#define DELAY 0
#endif
#define THREADS (32 * WARPS)
#define BLOCK_THREADS (THREADS + 32)  // the last warp is the producer
#define GRANULE 8192
#define RING (GRANULE * NUM_GRANULES)
#define TAIL 4096
