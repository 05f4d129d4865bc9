"""Pairs that are there twice, in a set or across sets: the same files, the same pixels, saved anew, resized, cropped,
mirrored or swapped.

Of each picture 400 bytes are kept, made once and in parallel (`picture_marks`). A hash of them finds what may be alike
without comparing all with all (`look_hashes`, `neighbors`); their values decide (`differences`, `duplicate_search`).
"""
