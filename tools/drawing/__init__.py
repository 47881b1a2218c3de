"""Pictures as SVG, made of real facts: legible as text, in light and in dark, on small screens.

canvas   shapes, words and their colours
layers, inside, shared, update
         a picture each: draw(facts) returns it
chart    bars of what tools/benchmark has measured
"""
