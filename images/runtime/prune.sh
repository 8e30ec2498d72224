#!/bin/sh
# Takes out of the venv $1 what a running pod never loads; with $2 = cpu also what only a GPU would.
# torch links the CUDA libraries themselves, so those stay in either case.
set -eu
site=$(echo "$1"/lib/python3*/site-packages)

rm -rf "$site"/pip "$site"/pip-*
echo /opt/podium/app >"$site/podium.pth"
find "$site" -name '*.a' -delete

case $2 in
cuda) ;;
cpu)
    rm -rf "$site"/triton "$site"/nvidia/cu13/include "$site"/torch/include
    find "$site/nvidia" -name '*.bc' -delete 2>/dev/null || true
    # libcudnn.so.9 is a thin front that opens these when a GPU runs a kernel.
    find "$site/nvidia" \( -name 'libcudnn_*.so*' -o -name 'libcusolverMg.so*' -o -name 'libnvperf_*.so*' \) -delete 2>/dev/null || true
    ;;
*)
    echo "ACCELERATOR is '$2'; expected cuda or cpu" >&2
    exit 1
    ;;
esac
