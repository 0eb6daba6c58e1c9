#!/bin/sh
# Builds Debian's source of wolfSSL with WOLFSSL_STATIC_PSK, since Debian's library
# has only the PSK suites with a key exchange, as static library and headers below
# the folder $1. The interoperability test uses it when MUSTER_WOLFSSL names it.
# It takes half a minute and needs a network that reaches Debian's archive.
set -eu
prefix=$(mkdir -p "$1" && cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$prefix/include" "$prefix/lib"
cd "$work"

. /etc/os-release
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $VERSION_CODENAME main" >sources.list
options="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$work/lists"
apt-get -qq $options update
apt-get -qq $options source --download-only wolfssl
tar xf wolfssl_*.orig.tar.gz
cd wolfssl-*/

defines="-DWOLFSSL_STATIC_PSK -DHAVE_TLS_EXTENSIONS -DHAVE_EXTENDED_MASTER -DHAVE_SNI -DHAVE_ENCRYPT_THEN_MAC
	-DHAVE_KEYING_MATERIAL -DHAVE_SERVER_RENEGOTIATION_INFO -DHAVE_AESGCM -DHAVE_ECC -DHAVE_SUPPORTED_CURVES
	-DHAVE_HASHDRBG -DHAVE_HKDF -DTFM_TIMING_RESISTANT -DECC_TIMING_RESISTANT -DWC_RSA_BLINDING
	-DUSE_FAST_MATH -DNO_DH -DNO_DSA -DNO_MD4 -DNO_RC4 -DNO_OLD_TLS"
sources=$(ls src/internal.c src/ssl.c src/tls.c src/keys.c src/wolfio.c src/ocsp.c src/crl.c wolfcrypt/src/*.c |
	grep -vE 'fips|selftest|evp\.c|misc\.c|bio\.c')
mkdir objects
for source in $sources; do
	gcc -O2 -fPIC -DBUILDING_WOLFSSL $defines -I. -c "$source" -o "objects/$(basename "$source").o"
done
cp -r wolfssl "$prefix/include/"
for define in $defines; do
	echo "#define ${define#-D}"
done >"$prefix/include/wolfssl/options.h"
ar rcs "$prefix/lib/libwolfssl.a" objects/*.o
