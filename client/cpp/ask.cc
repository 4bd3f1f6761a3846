// Asks an assistant a question and prints the reply as it streams: ask TARGET ASSISTANT_ID QUESTION
//
// A turn survives a broken connection: it is posted again with the same request_id, and text that was printed is skipped.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "palaver/v1/assistant_service.grpc.pb.h"

namespace v1 = palaver::v1;

namespace {

constexpr int kPosts = 5;

std::string NewRequestId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 32; i++) id += "0123456789abcdef"[random() % 16];
  return id;
}

// Posts the turn, prints the text that is not in `printed` yet, and adds it to `printed`.
grpc::Status Post(v1::AssistantService::Stub& stub, const v1::PostUserQueryRequest& request, std::string& printed) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
  auto stream = stub.PostUserQuery(&context, request);
  v1::PostUserQueryResponse response;
  std::string text;
  while (stream->Read(&response)) {
    switch (response.event_case()) {
      case v1::PostUserQueryResponse::kTextDelta: {
        text += response.text_delta().text();
        const size_t known = std::min(text.size(), printed.size());
        if (text.compare(0, known, printed, 0, known) != 0) {
          std::cout << "\n[the reply restarts]\n";
          printed.clear();
        }
        if (text.size() > printed.size()) {
          std::cout << text.substr(printed.size()) << std::flush;
          printed = text;
        }
        break;
      }
      case v1::PostUserQueryResponse::kCompleted:
        std::cout << "\n(" << response.completed().usage().total_tokens() << " tokens)" << std::endl;
        break;
      default:  // `started`, skill events, `progress` and unknown events
        break;
    }
  }
  return stream->Finish();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: ask TARGET ASSISTANT_ID QUESTION\n";
    return 2;
  }
  auto stub = v1::AssistantService::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));

  v1::CreateAssistantRequest create;
  create.set_id(argv[2]);
  create.set_if_exists(v1::IF_EXISTS_KEEP);
  grpc::ClientContext context;
  v1::CreateAssistantResponse created;
  grpc::Status status = stub->CreateAssistant(&context, create, &created);

  v1::PostUserQueryRequest query;
  query.set_id(argv[2]);
  query.set_user_message(argv[3]);
  query.set_request_id(NewRequestId());
  query.set_on_disconnect(v1::ON_DISCONNECT_CONTINUE);
  std::string printed;
  for (int posts = 0; status.ok() && posts < kPosts; posts++) {
    status = Post(*stub, query, printed);
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(200) * (posts + 1));
    if (posts + 1 < kPosts) status = grpc::Status::OK;
  }
  if (!status.ok()) {
    std::cerr << "error " << status.error_code() << ": " << status.error_message() << "\n";
    return 1;
  }
}
