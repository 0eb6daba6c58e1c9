/* What the foreign peers of the interoperability test have in common: arguments,
   the transport, and how results are told.

   peer client|server PORT NAME IDENTITY KEYHEX gcm|cbc ETM PAYLOAD

   A server with port 0 chooses one and prints it. After the handshake both print
   three exports. The client sends PAYLOAD octets, reads them back and closes; the
   server sends back what it receives until the client closes. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPORT_SIZE 48
#define LABEL_NONE "EXPORTER-oneM2M-Connection"
#define LABEL_EMPTY "EXPERIMENTAL-empty"
#define LABEL_CONTEXT "EXPERIMENTAL-context"
#define CONTEXT "context"

static int is_client, use_gcm, use_etm;
static const char *server_name, *identity;
static unsigned char key[64];
static size_t key_size;
static size_t payload;

static void fail(const char *what, int code)
{
	printf("failed %s %d\n", what, code);
	fflush(stdout);
	exit(1);
}

static void print_export(const char *name, const unsigned char *octets)
{
	printf("%s ", name);
	for (int i = 0; i < EXPORT_SIZE; i++)
		printf("%02x", octets[i]);
	printf("\n");
	fflush(stdout);
}

/* prepare reads the arguments and returns a connected socket. */
static int prepare(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t size = sizeof address;
	int fd;

	if (argc != 9)
		fail("arguments", argc);
	is_client = !strcmp(argv[1], "client");
	address.sin_port = htons(atoi(argv[2]));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server_name = argv[3];
	identity = argv[4];
	key_size = strlen(argv[5]) / 2;
	for (size_t i = 0; i < key_size && i < sizeof key; i++) {
		unsigned octet;
		sscanf(argv[5] + 2 * i, "%2x", &octet);
		key[i] = octet;
	}
	use_gcm = !strcmp(argv[6], "gcm");
	use_etm = atoi(argv[7]);
	payload = atoi(argv[8]);

	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (is_client) {
		if (connect(fd, (struct sockaddr *)&address, sizeof address))
			fail("connect", 0);
		return fd;
	}
	if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1) ||
	    getsockname(fd, (struct sockaddr *)&address, &size))
		fail("listen", 0);
	printf("port %d\n", ntohs(address.sin_port));
	fflush(stdout);
	return accept(fd, NULL, NULL);
}

/* converse exchanges the payload by the functions of a library, which return the
   number of octets, 0 at close_notify, or a negative error. */
static void converse(int (*get)(void *, size_t), int (*put)(const void *, size_t))
{
	unsigned char *octets = malloc(payload), *back = malloc(payload);
	size_t done = 0;
	int n;

	for (size_t i = 0; i < payload; i++)
		octets[i] = i % 251;
	if (!is_client) {
		while ((n = get(back, payload)) > 0)
			for (int sent = 0, m; sent < n; sent += m)
				if ((m = put(back + sent, n - sent)) <= 0)
					fail("put", m);
		if (n < 0)
			fail("get", n);
		return;
	}
	while (done < payload) {
		if ((n = put(octets + done, payload - done)) <= 0)
			fail("put", n);
		done += n;
	}
	for (done = 0; done < payload; done += n)
		if ((n = get(back + done, payload - done)) <= 0)
			fail("get", n);
	if (memcmp(octets, back, payload))
		fail("echo", 0);
}

static void finished(void)
{
	printf("done\n");
	fflush(stdout);
}
