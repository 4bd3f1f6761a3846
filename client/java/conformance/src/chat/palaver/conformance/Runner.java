package chat.palaver.conformance;

import static java.nio.charset.StandardCharsets.UTF_8;

import chat.palaver.PalaverClient;
import chat.palaver.PalaverException;
import chat.palaver.Reply;
import chat.palaver.v1.Assistant;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.GetAssistantResponse;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryUnaryResponse;
import chat.palaver.v1.TurnCompleted;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;

/**
 * Makes the calls of the conformance suite through the client, as {@code tests/conformance/README.md} describes: commands
 * on standard input, what was seen on standard output. Each call has a thread, and leaves by being interrupted.
 */
public final class Runner {
    private static final PrintStream OUT = new PrintStream(System.out, false, UTF_8);

    private final Map<String, Thread> calls = new HashMap<>();
    private PalaverClient client;

    private Runner() {}

    /** Obeys the commands until there are no more. */
    public static void main(String[] arguments) throws IOException {
        Runner runner = new Runner();
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            runner.obey(JsonParser.parseString(line).getAsJsonObject());
        }
        runner.close();
    }

    private void obey(JsonObject command) {
        if (command.has("client")) {
            close();
            JsonObject answer = new JsonObject();
            answer.addProperty("client", makeClient(command.getAsJsonObject("client")) ? "ready" : "refused");
            say(answer);
        } else if (command.has("cancel")) {
            calls.get(command.get("cancel").getAsString()).interrupt();
        } else {
            PalaverClient client = this.client;
            Thread thread = new Thread(() -> call(client, command));
            calls.put(command.get("id").getAsString(), thread);
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

    private static void call(PalaverClient client, JsonObject command) {
        String id = command.get("id").getAsString();
        try {
            say(id, "response", response(client, id, command));
        } catch (PalaverException e) {
            say(id, "error", error(e));
        } catch (InvalidProtocolBufferException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private static JsonElement response(PalaverClient client, String id, JsonObject command)
            throws InvalidProtocolBufferException {
        String request = command.getAsJsonObject("request").toString();
        Duration timeout = command.has("timeout") ? seconds(command.get("timeout")) : null;
        String method = command.get("call").getAsString();
        return switch (method) {
            case "CreateAssistant" -> {
                CreateAssistantRequest.Builder builder = parse(request, CreateAssistantRequest.newBuilder());
                yield json(client.createAssistant(builder.build(), timeout));
            }
            case "GetAssistant" -> {
                GetAssistantRequest.Builder builder = parse(request, GetAssistantRequest.newBuilder());
                Assistant assistant = client.getAssistant(builder.build(), timeout);
                yield json(GetAssistantResponse.newBuilder()
                        .setAssistant(assistant)
                        .build());
            }
            case "ListMessages" -> {
                ListMessagesRequest.Builder builder = parse(request, ListMessagesRequest.newBuilder());
                client.listMessages(builder.build(), timeout).forEach(message -> say(id, "message", json(message)));
                yield new JsonObject();
            }
            case "DeleteAssistant" -> {
                DeleteAssistantRequest.Builder builder = parse(request, DeleteAssistantRequest.newBuilder());
                client.deleteAssistant(builder.build(), timeout);
                yield new JsonObject();
            }
            case "CancelTurn" -> {
                CancelTurnRequest.Builder builder = parse(request, CancelTurnRequest.newBuilder());
                client.cancelTurn(builder.build(), timeout);
                yield new JsonObject();
            }
            case "PostUserQueryUnary" -> {
                PostUserQueryRequest.Builder builder = parse(request, PostUserQueryRequest.newBuilder());
                TurnCompleted completed = client.postUserQueryUnary(builder.build(), timeout);
                yield json(PostUserQueryUnaryResponse.newBuilder()
                        .setCompleted(completed)
                        .build());
            }
            case "PostUserQuery", "PostUserQueryText" -> {
                PostUserQueryRequest.Builder builder = parse(request, PostUserQueryRequest.newBuilder());
                try (Reply reply = client.postUserQuery(builder.build(), timeout)) {
                    say(id, "request_id", new JsonPrimitive(reply.requestId()));
                    if (method.equals("PostUserQuery")) {
                        reply.forEach(event -> say(id, "event", json(event)));
                    } else {
                        reply.text().forEach(text -> say(id, "text", new JsonPrimitive(text)));
                    }
                }
                yield new JsonObject();
            }
            default -> throw new IllegalArgumentException("there is no call " + method);
        };
    }

    private static JsonObject error(PalaverException error) {
        JsonArray violations = new JsonArray();
        for (PalaverException.FieldViolation violation : error.fieldViolations()) {
            JsonObject each = new JsonObject();
            each.addProperty("field", violation.field());
            each.addProperty("description", violation.description());
            violations.add(each);
        }
        JsonObject json = new JsonObject();
        json.addProperty("status", error.status().name());
        json.addProperty("reason", error.reason());
        json.addProperty("message", error.description());
        json.add("field_violations", violations);
        json.add("retry_delay", error.retryDelay().map(Runner::seconds).orElse(JsonNull.INSTANCE));
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

    private static void say(String id, String key, JsonElement value) {
        JsonObject line = new JsonObject();
        line.addProperty("id", id);
        line.add(key, value);
        say(line);
    }

    private static synchronized void say(JsonObject line) {
        OUT.println(line);
        OUT.flush();
    }
}
