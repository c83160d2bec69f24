"""Own pictures: a classifier from a few labelled ones, the accuracy to expect of it, and its export. Layer 4.

`prediction` looks for the pictures, `features` keeps what a network makes of each, and a method judges by that:
`with_head` (a head on a pre-trained network), `fine_tuned` (which moves that network's last layers, too) or `adapted`
(a run's algorithm). `scores` makes probabilities of what it says.
"""
