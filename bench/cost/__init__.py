"""What a model costs: predicted at full size without a GPU, measured where a device is.

meter, torch_private   live and peak bytes, FLOPs and bytes by operator, on fake or real tensors
families, cases        the published configurations; what can be asked for, by name
predict, cache         a case run on fake tensors; finished predictions kept
measure                a case or any callable on a real device
roofline               latency as a band, a model
plan                   hours, memory and disk of a whole recipe, before it starts
paper, tables, charts  figure 4 with every protocol, cost an image, training overhead, growth, what fits
command                `python -m bench cost`
"""
