"""Ranges for quantization: by calibration (PTQ) or learned during fine-tuning (QAT)."""
