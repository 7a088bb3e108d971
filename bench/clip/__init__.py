"""How well pictures fit their captions: CLIP score, Long-CLIP, FG-CLIP 2."""
