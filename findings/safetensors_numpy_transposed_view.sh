#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6.
# Behaviour: safetensors.numpy.save writes the memory behind an array that is not C-contiguous under the shape of the view:
# a transposed or Fortran-ordered array comes back with other numbers, without an error. safetensors.torch refuses such tensors.
# Output seen for [[0, 1, 2], [3, 4, 5]].T: saved and loaded [[0, 1], [2, 3], [4, 5]] in the place of [[0, 3], [1, 4], [2, 5]].
# Who is hurt: whoever stores outputs of a model that ends in a transpose.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 safetensors==0.8.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import safetensors.numpy


def kept(array):
    return safetensors.numpy.load(safetensors.numpy.save({"x": array}))["x"]


table = np.arange(6, dtype=np.float32).reshape(2, 3)
turned = kept(table.T)
print("transposed", turned.tolist(), "wanted", table.T.tolist())
assert turned.shape == (3, 2) and turned.ravel().tolist() == table.ravel().tolist()
column_major = np.asfortranarray(table)
print("Fortran order", kept(column_major).tolist(), "wanted", column_major.tolist())
assert not np.array_equal(kept(column_major), column_major)
assert np.array_equal(kept(np.ascontiguousarray(table.T)), table.T)
PYTHON
echo "safetensors_numpy_transposed_view: as described"
