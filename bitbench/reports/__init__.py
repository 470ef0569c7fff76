"""Tables and files for people, made from records only; runs on a machine without torch."""
