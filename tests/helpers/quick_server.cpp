// A chat server that costs little, to measure clients: it waits, and says a digest of what it was asked.
//
// quick_server LATENCY   serves on a free port of 127.0.0.1, which it prints, until SIGTERM; then it prints how often
// each thing was asked, as JSON. One thread: what it shares cores with is what is measured.

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <unordered_map>

namespace {

using Clock = std::chrono::steady_clock;

struct Connection {
  uint64_t number;  // a later connection may have the same descriptor
  std::string request;
  size_t begin = 0, needed = 0;  // of the body; 0: its length is not known yet
};

struct Answer {
  Clock::time_point due;
  int descriptor;
  uint64_t connection, digest;
};

volatile sig_atomic_t ended = 0;
std::unordered_map<int, Connection> connections;
std::unordered_map<uint64_t, uint32_t> counts;
std::deque<Answer> answers;  // each waits equally long, so they are in order

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

uint64_t digest(const char* bytes, size_t count) {
  uint64_t state = 0x9e3779b97f4a7c15 ^ count, word;
  for (; count; bytes += sizeof word) {
    const size_t part = count < sizeof word ? count : sizeof word;
    word = 0;
    std::memcpy(&word, bytes, part);
    state = (state ^ word) * 0xd6e8feb86659fd93;
    state ^= state >> 32;
    count -= part;
  }
  return state;
}

// Whether the request is whole; one that says no length has no body.
bool is_whole(Connection& connection) {
  if (!connection.needed) {
    const size_t head = connection.request.find("\r\n\r\n");
    if (head == std::string::npos) return false;
    connection.begin = connection.needed = head + 4;
    static const char name[] = "\r\ncontent-length:";
    for (size_t line = 0; line < head; line = connection.request.find("\r\n", line + 2)) {
      if (strncasecmp(connection.request.data() + line, name, sizeof name - 1) == 0) {
        connection.needed += std::strtoull(connection.request.data() + line + sizeof name - 1, nullptr, 10);
      }
    }
  }
  return connection.request.size() >= connection.needed;
}

void close_connection(int descriptor) {
  connections.erase(descriptor);
  close(descriptor);
}

void read_from(int descriptor, Clock::duration latency) {
  static char buffer[1 << 18];
  Connection& connection = connections.at(descriptor);
  const ssize_t count = recv(descriptor, buffer, sizeof buffer, 0);
  if (count <= 0) return close_connection(descriptor);
  connection.request.append(buffer, count);
  if (!is_whole(connection)) return;
  const uint64_t asked =
      digest(connection.request.data() + connection.begin, connection.needed - connection.begin);
  ++counts[asked];
  answers.push_back({Clock::now() + latency, descriptor, connection.number, asked});
  connection.request.clear();
  connection.needed = 0;
}

void write_due() {
  for (; !answers.empty() && answers.front().due <= Clock::now(); answers.pop_front()) {
    const Answer& answer = answers.front();
    const auto connection = connections.find(answer.descriptor);
    if (connection == connections.end() || connection->second.number != answer.connection) continue;
    char body[512], whole[1024];
    const int length = std::snprintf(
        body, sizeof body,
        R"({"object":"chat.completion","model":"quick","choices":[{"index":0,"message":{"role":"assistant",)"
        R"("content":"Edit pair %016lx."},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":20}})",
        static_cast<unsigned long>(answer.digest));
    const int count = std::snprintf(
        whole, sizeof whole, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
        length, body);
    if (send(answer.descriptor, whole, count, MSG_NOSIGNAL) != count) close_connection(answer.descriptor);
  }
}

int milliseconds_until_due() {
  if (answers.empty()) return 100;  // a signal may come before the wait for it
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(answers.front().due - Clock::now()).count();
  return left < 0 ? 0 : left > 100 ? 100 : static_cast<int>(left);
}

void watch(int events, int descriptor) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = descriptor;
  if (epoll_ctl(events, EPOLL_CTL_ADD, descriptor, &event)) fail("epoll_ctl");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return std::fputs("usage: quick_server SECONDS\n", stderr), 2;
  const auto latency = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::atof(arguments[1])));
  struct sigaction stop{};
  stop.sa_handler = [](int) { ended = 1; };
  sigaction(SIGTERM, &stop, nullptr);

  const int server = socket(AF_INET, SOCK_STREAM, 0), events = epoll_create1(0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (server < 0 || events < 0 || bind(server, reinterpret_cast<sockaddr*>(&address), size) || listen(server, 1024) ||
      getsockname(server, reinterpret_cast<sockaddr*>(&address), &size)) {
    fail("quick_server");
  }
  std::printf("%d\n", ntohs(address.sin_port));
  std::fflush(stdout);
  watch(events, server);

  uint64_t accepted = 0;
  while (!ended) {
    epoll_event ready[256];
    const int number = epoll_wait(events, ready, 256, milliseconds_until_due());
    for (int i = 0; i < number; ++i) {
      if (ready[i].data.fd != server) {
        read_from(ready[i].data.fd, latency);
        continue;
      }
      const int descriptor = accept(server, nullptr, nullptr), yes = 1;
      if (descriptor < 0) fail("accept");
      setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
      connections[descriptor] = Connection{++accepted, {}};
      watch(events, descriptor);
    }
    write_due();
  }

  const char* between = "";
  std::printf("{");
  for (const auto& [asked, times] : counts) {
    std::printf("%s\"%016lx\": %u", between, static_cast<unsigned long>(asked), times);
    between = ", ";
  }
  std::printf("}\n");
}
