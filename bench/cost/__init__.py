"""What a model costs: predicted at full size without a GPU, measured where a device is.

meter, torch_private   live and peak bytes, FLOPs and bytes by operator, on fake or real tensors
components, families, inputs
                       the published configurations, an entry a family; what a call is fed
cases, training        what can be asked for, by name; one training step
predict, cache         a case run on fake tensors; finished predictions kept
measure                a case or any callable on a real device
devices, roofline      GPUs by their data sheets; latency as a band, a model
protocols, paper       what "one step" of figure 4 may count; every case of the paper-size block, as records
write                  records to files; `reports.cost` draws their tables and charts
command                `python -m bench cost`
"""
