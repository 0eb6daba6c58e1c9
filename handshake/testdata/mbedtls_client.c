/*
 * A DTLS 1.2 client with mbedTLS 2.28 for the tests:
 *
 *   mbedtls_client PORT SERVER_NAME MTU cert LEAF KEY ROOT
 *   mbedtls_client PORT SERVER_NAME MTU psk IDENTITY HEX
 *
 * It shakes hands with 127.0.0.1:PORT in one of the mandatory suites, prints
 * "EXPORT" and the 48 octets of EXPORTER-oneM2M-Bootstrap in hexadecimal, sends
 * "hello", and prints "ECHO" and the answer. MTU 0 is the library's default. The
 * library has no exporter at this version, but its PRF and the master secret.
 */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/timing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char label[] = "EXPORTER-oneM2M-Bootstrap";

struct secret {
	unsigned char master[48], randoms[64];
	mbedtls_tls_prf_types prf;
};

static int keep(void *context, const unsigned char *master, const unsigned char *block, size_t mac, size_t key, size_t iv,
		const unsigned char client[32], const unsigned char server[32], mbedtls_tls_prf_types prf)
{
	struct secret *s = context;
	(void)block, (void)mac, (void)key, (void)iv;
	memcpy(s->master, master, sizeof s->master);
	memcpy(s->randoms, client, 32);
	memcpy(s->randoms + 32, server, 32);
	s->prf = prf;
	return 0;
}

static void must(const char *what, int code)
{
	if (code < 0) {
		char text[200];
		mbedtls_strerror(code, text, sizeof text);
		printf("FAILED %s: -0x%04x %s\n", what, -code, text);
		exit(1);
	}
}

static size_t unhex(const char *hex, unsigned char *out, size_t room)
{
	size_t n = 0;
	unsigned octet;
	while (n < room && sscanf(hex + 2 * n, "%2x", &octet) == 1)
		out[n++] = (unsigned char)octet;
	return n;
}

int main(int argc, char **argv)
{
	static const int cert_suites[] = {MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8, 0};
	static const int psk_suites[] = {MBEDTLS_TLS_PSK_WITH_AES_128_CCM_8, 0};
	mbedtls_net_context net;
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context random;
	mbedtls_timing_delay_context timer;
	mbedtls_x509_crt own, root;
	mbedtls_pk_context key;
	struct secret secret;
	unsigned char psk[64], exported[48], answer[100];
	int code;

	if (argc != 7 && argc != 8)
		return 2;
	setvbuf(stdout, NULL, _IONBF, 0);
	mbedtls_net_init(&net);
	mbedtls_ssl_init(&ssl);
	mbedtls_ssl_config_init(&config);
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);
	mbedtls_x509_crt_init(&own);
	mbedtls_x509_crt_init(&root);
	mbedtls_pk_init(&key);
	must("seed", mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0));
	must("defaults", mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_DATAGRAM, MBEDTLS_SSL_PRESET_DEFAULT));
	mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
	mbedtls_ssl_conf_export_keys_ext_cb(&config, keep, &secret);
	mbedtls_ssl_conf_handshake_timeout(&config, 500, 8000);
	mbedtls_ssl_conf_read_timeout(&config, 10000);
	if (strcmp(argv[4], "cert") == 0 && argc == 8) {
		must("leaf", mbedtls_x509_crt_parse_file(&own, argv[5]));
		must("key", mbedtls_pk_parse_keyfile(&key, argv[6], NULL));
		must("root", mbedtls_x509_crt_parse_file(&root, argv[7]));
		must("identity", mbedtls_ssl_conf_own_cert(&config, &own, &key));
		mbedtls_ssl_conf_ca_chain(&config, &root, NULL);
		mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
		mbedtls_ssl_conf_ciphersuites(&config, cert_suites);
	} else {
		size_t size = unhex(argv[6], psk, sizeof psk);
		must("psk", mbedtls_ssl_conf_psk(&config, psk, size, (unsigned char *)argv[5], strlen(argv[5])));
		mbedtls_ssl_conf_ciphersuites(&config, psk_suites);
	}
	must("setup", mbedtls_ssl_setup(&ssl, &config));
	must("server name", mbedtls_ssl_set_hostname(&ssl, argv[2]));
	if (atoi(argv[3]) > 0)
		mbedtls_ssl_set_mtu(&ssl, (uint16_t)atoi(argv[3]));
	must("connect", mbedtls_net_connect(&net, "127.0.0.1", argv[1], MBEDTLS_NET_PROTO_UDP));
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, NULL, mbedtls_net_recv_timeout);
	mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);
	do
		code = mbedtls_ssl_handshake(&ssl);
	while (code == MBEDTLS_ERR_SSL_WANT_READ || code == MBEDTLS_ERR_SSL_WANT_WRITE);
	must("handshake", code);
	must("export", mbedtls_ssl_tls_prf(secret.prf, secret.master, sizeof secret.master, label, secret.randoms, sizeof secret.randoms, exported, sizeof exported));
	printf("EXPORT ");
	for (size_t i = 0; i < sizeof exported; i++)
		printf("%02x", exported[i]);
	printf("\n");
	must("write", mbedtls_ssl_write(&ssl, (const unsigned char *)"hello", 5));
	code = mbedtls_ssl_read(&ssl, answer, sizeof answer);
	must("read", code);
	printf("ECHO %.*s\n", code, (char *)answer);
	mbedtls_ssl_close_notify(&ssl);
	return 0;
}
