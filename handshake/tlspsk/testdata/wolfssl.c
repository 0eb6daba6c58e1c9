#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include "peer.h"

static WOLFSSL *ssl;

static unsigned int give(WOLFSSL *s, const char *hint, char *name, unsigned int name_max, unsigned char *out,
			 unsigned int out_max)
{
	if (strlen(identity) >= name_max || key_size > out_max)
		return 0;
	strcpy(name, identity);
	memcpy(out, key, key_size);
	return key_size;
}

static unsigned int find(WOLFSSL *s, const char *name, unsigned char *out, unsigned int out_max)
{
	if (strcmp(name, identity) || key_size > out_max)
		return 0;
	memcpy(out, key, key_size);
	return key_size;
}

static void export(const char *name, const char *label, const char *context)
{
	unsigned char out[EXPORT_SIZE];
	int r = wolfSSL_export_keying_material(ssl, out, sizeof out, label, strlen(label), (const unsigned char *)context,
					       context ? strlen(context) : 0, context != NULL);
	if (r != WOLFSSL_SUCCESS)
		fail("export", r);
	print_export(name, out);
}

static int get(void *p, size_t n)
{
	int r = wolfSSL_read(ssl, p, n);
	return r <= 0 && wolfSSL_get_error(ssl, r) == WOLFSSL_ERROR_ZERO_RETURN ? 0 : r;
}

static int put(const void *p, size_t n) { return wolfSSL_write(ssl, p, n); }

int main(int argc, char **argv)
{
	int fd = prepare(argc, argv), r;
	WOLFSSL_CTX *ctx;

	wolfSSL_Init();
	ctx = wolfSSL_CTX_new(is_client ? wolfTLSv1_2_client_method() : wolfTLSv1_2_server_method());
	if (is_client)
		wolfSSL_CTX_set_psk_client_callback(ctx, give);
	else
		wolfSSL_CTX_set_psk_server_callback(ctx, find);
	if (wolfSSL_CTX_set_cipher_list(ctx, use_gcm ? "PSK-AES128-GCM-SHA256" : "PSK-AES128-CBC-SHA256") !=
	    WOLFSSL_SUCCESS)
		fail("cipher list", 0);
	if (wolfSSL_CTX_AllowEncryptThenMac(ctx, use_etm) != WOLFSSL_SUCCESS)
		fail("encrypt then mac", 0);
	ssl = wolfSSL_new(ctx);
	wolfSSL_KeepArrays(ssl);
	if (is_client)
		wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, server_name, strlen(server_name));
	wolfSSL_set_fd(ssl, fd);
	r = is_client ? wolfSSL_connect(ssl) : wolfSSL_accept(ssl);
	if (r != WOLFSSL_SUCCESS)
		fail("handshake", wolfSSL_get_error(ssl, r));
	export("none", LABEL_NONE, NULL);
	export("empty", LABEL_EMPTY, "");
	export("context", LABEL_CONTEXT, CONTEXT);
	converse(get, put);
	wolfSSL_shutdown(ssl);
	finished();
	return 0;
}
