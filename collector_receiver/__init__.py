"""The OTLP receiver: takes spans in, answers when they are durable. `python -m collector_receiver`."""
