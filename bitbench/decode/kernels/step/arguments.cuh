// A kernel's arguments are a list of types and names, handed to a macro one by one: from it come a struct of them, the
// kernel's own parameters and the values of these. The launcher reads their names from the list (cuda_source.py).

#define AS_MEMBER(type, name) type name;
#define AS_PARAMETER(type, name) type name,
#define AS_VALUE(type, name) name,
#define PARAMETERS(LIST) LIST(AS_PARAMETER) int unused  // which only ends the list
