#!/bin/sh
# Collects into $1 a root file system that runs this machine's python3, the programs named by the other arguments, and
# nothing else: the interpreter, its standard library, the shared libraries they load, the C++ runtime that wheels expect,
# certificates, time zones and one unprivileged user. No shell unless it is named, no package tool. What Debian packages
# the files came from is recorded in var/lib/dpkg/status.d, where scanners look.
set -eu
root=$1
shift
programs=$(for program in "$@"; do command -v "$program"; done)
python=$(readlink -f "$(command -v python3)")
stdlib=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')

mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64" "$root/usr/share" "$root/etc/ssl/certs" "$root/tmp" \
    "$root/var/lib/dpkg/status.d"
for folder in bin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
chmod 1777 "$root/tmp"

# put FILE...: copies each file, links followed, to the same place under usr/ in the new root.
put() {
    for file in "$@"; do
        place=/usr/${file#/}
        place=$(echo "$place" | sed 's,^/usr/usr/,/usr/,')
        mkdir -p "$root$(dirname "$place")"
        cp -L "$file" "$root$place"
        echo "$file" >>"$root/.copied"
    done
}

# needs FILE...: the shared libraries that the loader finds for them.
needs() {
    ldd "$@" 2>/dev/null | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' | sort -u
}

put "$python"
ln -s "$(basename "$python")" "$root/usr/bin/python3"
mkdir -p "$root$stdlib"
tar -C "$stdlib" --exclude=./test --exclude=./idlelib --exclude=./lib2to3 --exclude=./ensurepip --exclude=./tkinter \
    --exclude=./turtledemo --exclude=./pydoc_data --exclude='./config-*/*.a' --exclude=__pycache__ -cf - . |
    tar -C "$root$stdlib" -xf -
# What wheels may link against by the manylinux standard: the C library in all its parts, and the C++ runtime.
parts='libm libdl librt libpthread libutil libresolv libanl libnss_dns libnss_files libgcc_s libstdc++ libatomic'
wheels=$(for part in $parts; do ldconfig -p | sed -n "s,.*[[:space:]]$part\\.so\\.[0-9]* .*=> ,,p"; done | sort -u)
# shellcheck disable=SC2046,SC2086  # lists of paths without spaces
put $(needs "$python" "$stdlib"/lib-dynload/*.so $wheels) $wheels
if [ -n "$programs" ]; then
    # shellcheck disable=SC2046,SC2086
    put $programs $(needs $programs)
fi
put /usr/share/zoneinfo/UTC
python3 -m compileall -q -j 0 -s "$root" --invalidation-mode unchecked-hash "$root$stdlib"

# From the package's own files, not the bundle of the machine that builds.
cat /usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$root/usr/lib/ssl"
ln -s /etc/ssl/certs "$root/usr/lib/ssl/certs"
ln -s /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
echo 'podium:x:65532:65532::/tmp:/sbin/nologin' >"$root/etc/passwd"
echo 'podium:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
cp /etc/os-release "$root/etc/os-release"

for file in $(cat "$root/.copied") "$stdlib/os.py" /usr/share/ca-certificates/mozilla; do
    # Of what a package put in another's place (dash: /bin/sh) it first names the diversion.
    dpkg-query -S "$file" "${file#/usr}" 2>/dev/null | grep -v '^diversion ' | head -n 1 | sed 's/: .*//; s/:.*//; s/,.*//'
done | sort -u | while read -r package; do
    dpkg-query -s "$package" >"$root/var/lib/dpkg/status.d/$package"
done
rm "$root/.copied"
