package chat.palaver.conformance;

import static java.nio.charset.StandardCharsets.UTF_8;

import chat.palaver.PalaverClient;
import chat.palaver.PalaverException;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.GetAssistantResponse;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryUnaryResponse;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import io.grpc.Status;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * Makes the calls of the conformance suite through the client, as {@code tests/conformance/README.md} describes. It reads
 * commands from standard input and reports what it sees on standard output. Each call has a thread, which is interrupted to
 * cancel the call. With the argument {@code async}, the calls are those of {@link chat.palaver.PalaverAsyncClient}.
 */
public final class Runner {
    private static final PrintStream OUT = new PrintStream(System.out, false, UTF_8);

    private final Function<PalaverClient, Calls> callsOf;
    private final Map<String, Thread> threads = new HashMap<>();
    private PalaverClient client;

    private Runner(Function<PalaverClient, Calls> callsOf) {
        this.callsOf = callsOf;
    }

    /** Runs the commands until the end of standard input. */
    public static void main(String[] arguments) throws IOException {
        Runner runner = new Runner(List.of(arguments).contains("async") ? AsyncCalls::new : BlockingCalls::new);
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            runner.run(JsonParser.parseString(line).getAsJsonObject());
        }
        runner.close();
    }

    private void run(JsonObject command) {
        if (command.has("client")) {
            close();
            JsonObject answer = new JsonObject();
            answer.addProperty("client", makeClient(command.getAsJsonObject("client")) ? "ready" : "refused");
            report(answer);
        } else if (command.has("cancel")) {
            threads.get(command.get("cancel").getAsString()).interrupt();
        } else {
            Calls calls = callsOf.apply(client);
            Thread thread = new Thread(() -> call(calls, command));
            threads.put(command.get("id").getAsString(), thread);
            thread.setDaemon(true);
            thread.start();
        }
    }

    private void close() {
        if (client != null) {
            client.close();
            client = null;
        }
    }

    private boolean makeClient(JsonObject options) {
        PalaverClient.Builder builder =
                PalaverClient.builder().target(options.get("target").getAsString());
        if (options.has("tls")) {
            builder.tls(Path.of(options.get("tls").getAsString()));
        }
        if (options.has("certificate")) {
            builder.clientCertificate(
                    Path.of(options.get("certificate").getAsString()),
                    Path.of(options.get("key").getAsString()));
        }
        if (options.has("tokens")) {
            builder.token(tokenSupplier(options.getAsJsonArray("tokens")));
        }
        if (options.has("token")) {
            builder.token(options.get("token").getAsString());
        }
        if (options.has("timeout")) {
            builder.timeout(seconds(options.get("timeout")));
        }
        if (options.has("reconnect_timeout")) {
            builder.reconnectTimeout(seconds(options.get("reconnect_timeout")));
        }
        try {
            client = builder.build();
            return true;
        } catch (IllegalArgumentException e) {
            return false;
        }
    }

    /** Returns a supplier of the tokens, one after another, which then fails. */
    private static Supplier<String> tokenSupplier(JsonArray tokens) {
        Queue<String> left = new ConcurrentLinkedQueue<>();
        tokens.forEach(token -> left.add(token.getAsString()));
        return () -> {
            String token = left.poll();
            if (token == null) {
                throw new IllegalStateException("no token left");
            }
            return token;
        };
    }

    private static void call(Calls calls, JsonObject command) {
        String id = command.get("id").getAsString();
        try {
            report(id, "response", response(calls, id, command));
        } catch (PalaverException e) {
            report(id, "error", error(e));
        } catch (InterruptedException e) {
            report(
                    id,
                    "error",
                    error(Status.Code.CANCELLED, "", "the call was cancelled", List.of(), Optional.empty()));
        } catch (InvalidProtocolBufferException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private static JsonElement response(Calls calls, String id, JsonObject command)
            throws InterruptedException, InvalidProtocolBufferException {
        String request = command.getAsJsonObject("request").toString();
        Duration timeout = command.has("timeout") ? seconds(command.get("timeout")) : null;
        Consumer<String> requestId = name -> report(id, "request_id", new JsonPrimitive(name));
        String method = command.get("call").getAsString();
        return switch (method) {
            case "CreateAssistant" ->
                json(calls.createAssistant(
                        parse(request, CreateAssistantRequest.newBuilder()).build(), timeout));
            case "GetAssistant" -> {
                var get = parse(request, GetAssistantRequest.newBuilder()).build();
                yield json(GetAssistantResponse.newBuilder()
                        .setAssistant(calls.getAssistant(get, timeout))
                        .build());
            }
            case "ListMessages" -> {
                var list = parse(request, ListMessagesRequest.newBuilder()).build();
                calls.listMessages(list, timeout, message -> report(id, "message", json(message)));
                yield new JsonObject();
            }
            case "DeleteAssistant" -> {
                calls.deleteAssistant(
                        parse(request, DeleteAssistantRequest.newBuilder()).build(), timeout);
                yield new JsonObject();
            }
            case "CancelTurn" -> {
                calls.cancelTurn(parse(request, CancelTurnRequest.newBuilder()).build(), timeout);
                yield new JsonObject();
            }
            case "PostUserQueryUnary" -> {
                var query = parse(request, PostUserQueryRequest.newBuilder()).build();
                yield json(PostUserQueryUnaryResponse.newBuilder()
                        .setCompleted(calls.postUserQueryUnary(query, timeout))
                        .build());
            }
            case "PostUserQuery" -> {
                var query = parse(request, PostUserQueryRequest.newBuilder()).build();
                calls.postUserQuery(query, timeout, requestId, event -> report(id, "event", json(event)));
                yield new JsonObject();
            }
            case "PostUserQueryText" -> {
                var query = parse(request, PostUserQueryRequest.newBuilder()).build();
                calls.postUserQueryText(
                        query, timeout, requestId, piece -> report(id, "text", new JsonPrimitive(piece)));
                yield new JsonObject();
            }
            default -> throw new IllegalArgumentException("unknown call " + method);
        };
    }

    private static JsonObject error(PalaverException error) {
        return error(error.status(), error.reason(), error.description(), error.fieldViolations(), error.retryDelay());
    }

    private static JsonObject error(
            Status.Code status,
            String reason,
            String message,
            List<PalaverException.FieldViolation> fieldViolations,
            Optional<Duration> retryDelay) {
        JsonArray violations = new JsonArray();
        for (PalaverException.FieldViolation violation : fieldViolations) {
            JsonObject each = new JsonObject();
            each.addProperty("field", violation.field());
            each.addProperty("description", violation.description());
            violations.add(each);
        }
        JsonObject json = new JsonObject();
        json.addProperty("status", status.name());
        json.addProperty("reason", reason);
        json.addProperty("message", message);
        json.add("field_violations", violations);
        json.add("retry_delay", retryDelay.map(Runner::seconds).orElse(JsonNull.INSTANCE));
        return json;
    }

    private static Duration seconds(JsonElement seconds) {
        return Duration.ofNanos(seconds.getAsBigDecimal().movePointRight(9).longValue());
    }

    private static JsonElement seconds(Duration duration) {
        return new JsonPrimitive(BigDecimal.valueOf(duration.toNanos(), 9));
    }

    private static <B extends Message.Builder> B parse(String request, B builder)
            throws InvalidProtocolBufferException {
        JsonFormat.parser().merge(request, builder);
        return builder;
    }

    private static JsonElement json(Message message) {
        try {
            return JsonParser.parseString(
                    JsonFormat.printer().preservingProtoFieldNames().print(message));
        } catch (InvalidProtocolBufferException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private static void report(String id, String key, JsonElement value) {
        JsonObject line = new JsonObject();
        line.addProperty("id", id);
        line.add(key, value);
        report(line);
    }

    private static synchronized void report(JsonObject line) {
        OUT.println(line);
        OUT.flush();
    }
}
