// The app that the hosts run: small enough to be on its way at once, and it says who it is.
// GET /             VERSION DYNO NONCE, of which the last is of this process alone
// GET /fetch/H/P    what GET / says at host H, port P
// server TEXT      says that and ends
// GET /write/TEXT   appends a line to /data/lines;  GET /lines gives all of them
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/time.h>
#include <unistd.h>

static char own[256];

static void end(int signal) { (void)signal; _exit(0); }

static int dial(const char *host, const char *port) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
  if (getaddrinfo(host, port, &hints, &found) != 0) return -1;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval limit = {.tv_sec = 3};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) { close(fd); fd = -1; }
  freeaddrinfo(found);
  return fd;
}

static void fetch(char *what, char *body, size_t room) {
  char *port = strrchr(what, '/');
  if (port == NULL) { snprintf(body, room, "no port"); return; }
  *port++ = 0;
  int fd = dial(what, port);
  if (fd < 0) { snprintf(body, room, "cannot reach %s: %s", what, strerror(errno)); return; }
  dprintf(fd, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", what);
  char text[4096];
  size_t length = 0;
  ssize_t got;
  while (length < sizeof text - 1 && (got = read(fd, text + length, sizeof text - 1 - length)) > 0) length += got;
  close(fd);
  text[length] = 0;
  char *start = strstr(text, "\r\n\r\n");
  snprintf(body, room, "%s", start ? start + 4 : "no answer");
}

static void *serve(void *argument) {
  int fd = (int)(long)argument, one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  char in[8192];
  size_t have = 0;
  for (;;) {
    char *last;
    in[have] = 0;
    while ((last = strstr(in, "\r\n\r\n")) == NULL) {
      ssize_t got = have < sizeof in - 1 ? read(fd, in + have, sizeof in - 1 - have) : 0;
      if (got <= 0) { close(fd); return NULL; }
      have += got;
      in[have] = 0;
    }
    size_t used = last + 4 - in;
    int closes = strcasestr(in, "\r\nconnection: close") != NULL;
    char path[1024] = "/", body[4096], answer[8192];
    sscanf(in, "%*s %1023s", path);
    snprintf(body, sizeof body, "%s", own);
    if (strncmp(path, "/fetch/", 7) == 0) fetch(path + 7, body, sizeof body);
    if (strncmp(path, "/write/", 7) == 0) {
      int file = open("/data/lines", O_WRONLY | O_CREAT | O_APPEND, 0600);
      if (file < 0 || dprintf(file, "%s\n", path + 7) < 0 || fsync(file) != 0) snprintf(body, sizeof body, "error %s", strerror(errno));
      close(file);
    }
    if (strcmp(path, "/never") == 0) { // its answer comes never
      puts("asked for what never comes");
      fflush(stdout);
      for (;;) pause();
    }
    if (strcmp(path, "/lines") == 0) {
      int file = open("/data/lines", O_RDONLY);
      ssize_t got = file < 0 ? 0 : read(file, body, sizeof body - 1);
      body[got < 0 ? 0 : got] = 0;
      close(file);
    }
    int length = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n%s\r\n%s", strlen(body),
                          closes ? "Connection: close\r\n" : "", body);
    if (write(fd, answer, length) != length || closes) { close(fd); return NULL; }
    memmove(in, in + used, have - used);
    have -= used;
  }
}

int main(int count, char **words) {
  if (count > 1) { puts(words[1]); return 0; } // a command in its surroundings
  unsigned nonce = 0;
  if (getrandom(&nonce, sizeof nonce, 0) < 0) return 1;
  const char *version = getenv("VERSION"), *dyno = getenv("DYNO"), *port = getenv("PORT");
  snprintf(own, sizeof own, "%s %s %08x", version ? version : "?", dyno ? dyno : "?", nonce);
  signal(SIGTERM, end); // the first process of a container has no default for it
  signal(SIGPIPE, SIG_IGN);
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port ? atoi(port) : 5000)};
  if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 512) != 0) { perror("listen"); return 1; }
  printf("serving %s\n", own);
  fflush(stdout);
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&small, 256 * 1024);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    pthread_t thread;
    if (fd >= 0 && pthread_create(&thread, &small, serve, (void *)(long)fd) != 0) close(fd);
  }
}
