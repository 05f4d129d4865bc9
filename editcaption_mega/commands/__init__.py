"""The commands: a file for each, of the same name. They parse, call one function of a room, and print.

`main(argv)` of a file is the command, `editcaption NAME` and tools/NAME.py run it. What is slow to import is imported
when the arguments have been read."""
