#include "peer.h"
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>

static mbedtls_ssl_context ssl;
static unsigned char master[48], randoms[64];
static mbedtls_tls_prf_types prf_type;

/* mbedTLS 2.28 has no exporter, but gives what one is made of. */
static int keep_secrets(void *p, const unsigned char *ms, const unsigned char *block, size_t maclen, size_t keylen,
			size_t ivlen, const unsigned char client[32], const unsigned char server[32],
			mbedtls_tls_prf_types type)
{
	memcpy(master, ms, 48);
	memcpy(randoms, client, 32);
	memcpy(randoms + 32, server, 32);
	prf_type = type;
	return 0;
}

static void export(const char *name, const char *label, const char *context)
{
	unsigned char seed[128], out[EXPORT_SIZE];
	size_t n = 64;

	memcpy(seed, randoms, 64);
	if (context) {
		seed[64] = 0;
		seed[65] = strlen(context);
		memcpy(seed + 66, context, strlen(context));
		n += 2 + strlen(context);
	}
	int r = mbedtls_ssl_tls_prf(prf_type, master, 48, label, seed, n, out, sizeof out);
	if (r)
		fail("export", r);
	print_export(name, out);
}

static int get(void *p, size_t n)
{
	int r = mbedtls_ssl_read(&ssl, p, n);
	return r == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY ? 0 : r;
}

static int put(const void *p, size_t n) { return mbedtls_ssl_write(&ssl, p, n); }

int main(int argc, char **argv)
{
	mbedtls_net_context net = {prepare(argc, argv)};
	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context drbg;
	mbedtls_ssl_config conf;
	int suites[] = {use_gcm ? MBEDTLS_TLS_PSK_WITH_AES_128_GCM_SHA256 : MBEDTLS_TLS_PSK_WITH_AES_128_CBC_SHA256, 0};
	int r;

	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&drbg);
	mbedtls_ssl_config_init(&conf);
	mbedtls_ssl_init(&ssl);
	if ((r = mbedtls_ctr_drbg_seed(&drbg, mbedtls_entropy_func, &entropy, NULL, 0)))
		fail("seed", r);
	mbedtls_ssl_config_defaults(&conf, is_client ? MBEDTLS_SSL_IS_CLIENT : MBEDTLS_SSL_IS_SERVER,
				    MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
	mbedtls_ssl_conf_rng(&conf, mbedtls_ctr_drbg_random, &drbg);
	mbedtls_ssl_conf_ciphersuites(&conf, suites);
	mbedtls_ssl_conf_encrypt_then_mac(&conf, use_etm);
	mbedtls_ssl_conf_export_keys_ext_cb(&conf, keep_secrets, NULL);
	mbedtls_ssl_conf_psk(&conf, key, key_size, (const unsigned char *)identity, strlen(identity));
	if ((r = mbedtls_ssl_setup(&ssl, &conf)))
		fail("setup", r);
	if (is_client)
		mbedtls_ssl_set_hostname(&ssl, server_name);
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
	if ((r = mbedtls_ssl_handshake(&ssl)))
		fail("handshake", r);
	export("none", LABEL_NONE, NULL);
	export("empty", LABEL_EMPTY, "");
	export("context", LABEL_CONTEXT, CONTEXT);
	converse(get, put);
	mbedtls_ssl_close_notify(&ssl);
	finished();
	return 0;
}
