"""From noise to a video, given what a network predicts on the way: solvers of the flow, and who drives them."""
