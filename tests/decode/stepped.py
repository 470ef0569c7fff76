"""Steps of a kernel beside the plain decoder's, whose logits and tokens they must be."""

from collections.abc import Iterator

from bitbench.decode.decoder import Decoder
from bitbench.decode.steps import Steps


def stepped(
    kernel: Steps, exact: Decoder, plain: Decoder, ids: list[list[int]], num_steps: int
) -> Iterator[tuple[int, float, float]]:
    """For each step and sequence: the step's number, and the mean squared errors of its logits and of the plain
    decoder's to float32 arithmetic on the same stored numbers. The chosen token is the likeliest.
    """
    prompt_len = len(ids[0])
    kernel.start_all(ids)
    sequences = [[*row, token] for row, (token,) in zip(ids, kernel.all_tokens(prompt_len, 1), strict=True)]
    for number in range(num_steps):
        kernel.all_logits().fill_(float("nan"))  # poisoned: what is not written is seen
        kernel.advance(1, keep_logits=True)
        chosen = kernel.all_tokens(prompt_len + number + 1, 1)
        for sequence, logits, (token,) in zip(sequences, kernel.all_logits(), chosen, strict=True):
            expected, rounded = (decoder.logits(sequence, 1)[0] for decoder in (exact, plain))
            yield number, *(float((found - expected).square().mean()) for found in (logits, rounded))
            assert token == int(logits.argmax())
            sequence.append(token)
