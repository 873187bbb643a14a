"""What a user would write without this tool: python sample.py SOURCE EXPANDED

Runs both models on 8 x 128 random tokens with PyTorch and compares the outputs. Exit code 0: close.
"""

import gc
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM


def logits(path, ids):
    masked = "MaskedLM" in AutoConfig.from_pretrained(path).architectures[0]
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model = kind.from_pretrained(path, dtype="auto").eval()
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


ids = torch.randint(0, 30000, (8, 128), generator=torch.Generator().manual_seed(0))
source = logits(sys.argv[1], ids)
gc.collect()
close = torch.allclose(source, logits(sys.argv[2], ids), rtol=1e-4, atol=1e-4)
print("close" if close else "different")
sys.exit(0 if close else 1)
