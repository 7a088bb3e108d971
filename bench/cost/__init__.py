"""What a model costs: predicted at full size without a GPU, measured where a device is.

meter, torch_private   live and peak bytes, FLOPs and bytes by operator, on fake or real tensors
families, inputs       the published configurations; what a call is fed
cases, training        what can be asked for, by name; one training step
predict, cache         a case run on fake tensors; finished predictions kept
measure                a case or any callable on a real device
roofline               latency as a band, a model
paper, protocols, tables, charts, write
                       figure 4 with every protocol, cost an image, training overhead, growth, what fits
command                `python -m bench cost`
"""
