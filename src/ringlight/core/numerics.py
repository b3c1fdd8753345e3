"""Version of the numbers that are computed, so that no job resumes from what another version left.

Raise NUMERICS by one with every change after which the same request, on the same machine, ranks and weights, has other
latents after some step, if only in their last bit: in a network, a kernel, a sampler, a schedule, what is drawn at
random, or the order of a sum. A job that is under way while a server is upgraded then begins anew, and says so, where
it would end as a mixture of two. What leaves latents as they were (the decoder, an encoder of videos, a report) does
not count; nor do the libraries, whose versions may change within one release of ours.
"""

NUMERICS = 1
