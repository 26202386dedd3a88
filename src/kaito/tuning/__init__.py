"""The trainer: LoRA and QLoRA on one machine. Reads its configuration, trains, evaluates, saves; fetches nothing."""
