package chat.palaver;

import static chat.palaver.support.Replies.completed;
import static chat.palaver.support.Replies.createdAssistant;
import static chat.palaver.support.Replies.skillCall;
import static chat.palaver.support.Replies.skillResult;
import static chat.palaver.support.Replies.started;
import static chat.palaver.support.Replies.text;
import static chat.palaver.support.Replies.turn;
import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CancelTurnResponse;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.IfExists;
import chat.palaver.v1.OnDisconnect;
import chat.palaver.v1.PostUserQueryRequest;
import io.grpc.Status;
import java.io.IOException;
import java.io.Writer;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Tests the terminal chat as a process. */
class ChatTest {
    private static final String PROMPT = "> ";

    @AutoClose
    private final ScriptedServer server = new ScriptedServer();

    @AutoClose
    private final Chat chat = new Chat(server.target());

    /** The process and its streams. */
    private static final class Chat implements AutoCloseable {
        private final Process process;
        private final Writer input;

        Chat(String target) {
            String java =
                    Path.of(System.getProperty("java.home"), "bin", "java").toString();
            ProcessBuilder builder =
                    new ProcessBuilder(java, "-Dchat.prompt=" + PROMPT, "chat.palaver.example.Chat", target, "support");
            builder.environment().putAll(Map.of("CLASSPATH", System.getProperty("java.class.path")));
            try {
                process = builder.start();
            } catch (IOException e) {
                throw new IllegalStateException(e);
            }
            input = process.outputWriter(UTF_8);
        }

        void say(String line) throws IOException {
            input.write(line + "\n");
            input.flush();
        }

        /** Reads the expected output. */
        void shows(String expected) throws IOException {
            byte[] bytes = expected.getBytes(UTF_8);
            assertEquals(expected, new String(process.getInputStream().readNBytes(bytes.length), UTF_8));
        }

        void interrupt() throws Exception {
            Process kill = new ProcessBuilder("kill", "-INT", String.valueOf(process.pid())).start();
            assertTrue(kill.waitFor(30, SECONDS));
        }

        void ends(String errors) throws Exception {
            assertEquals("", new String(process.getInputStream().readAllBytes(), UTF_8));
            assertEquals(errors, new String(process.getErrorStream().readAllBytes(), UTF_8));
            assertTrue(process.waitFor(30, SECONDS));
            assertEquals(0, process.exitValue());
        }

        @Override
        public void close() {
            process.destroyForcibly();
        }
    }

    @BeforeEach
    void scriptAssistant() {
        server.script("CreateAssistant", List.of(createdAssistant()));
    }

    @Test
    void itShowsRepliesAndContinuesAfterAnError() throws Exception {
        server.script(
                "PostUserQuery",
                turn("Guten ", "Täg 👋"),
                List.of(started(), text("Hm"), Step.refuse(Status.Code.ABORTED, "ASSISTANT_BUSY")),
                turn("Bye"));
        chat.shows(PROMPT);
        chat.say("Grüße!");
        chat.shows("Guten Täg 👋\n" + PROMPT);
        chat.say("");
        chat.shows(PROMPT);
        chat.say("And now?");
        chat.shows("Hm\n" + PROMPT);
        chat.say("Bye.");
        chat.shows("Bye\n" + PROMPT);
        chat.input.close();
        chat.ends("refused (ABORTED, ASSISTANT_BUSY)\n");

        var create = (CreateAssistantRequest) server.requests("CreateAssistant").get(0);
        assertEquals("support", create.getId());
        assertEquals(IfExists.IF_EXISTS_KEEP, create.getIfExists());
        var query = (PostUserQueryRequest) server.requests("PostUserQuery").get(0);
        assertEquals("Grüße!", query.getUserMessage());
        assertEquals(OnDisconnect.ON_DISCONNECT_CONTINUE, query.getOnDisconnect());
    }

    @Test
    void ctrlCCancelsTheReplyOrEndsTheChat() throws Exception {
        var cancelled = new CompletableFuture<Void>();
        server.script(
                "PostUserQuery",
                List.of(
                        started(),
                        text("Hi"),
                        Step.await(cancelled),
                        Step.refuse(Status.Code.CANCELLED, "TURN_CANCELLED")),
                turn("There"));
        server.script(
                "CancelTurn",
                List.of(
                        (call, answer) -> cancelled.complete(null),
                        Step.send(CancelTurnResponse.getDefaultInstance())));
        chat.shows(PROMPT);
        chat.say("Hello!");
        chat.shows("Hi");
        chat.interrupt();
        chat.shows("\n" + PROMPT);
        chat.say("Are you there?");
        chat.shows("There\n" + PROMPT);
        chat.interrupt();
        chat.shows("\n");
        chat.ends("refused (CANCELLED, TURN_CANCELLED)\n");

        var query = (PostUserQueryRequest) server.requests("PostUserQuery").get(0);
        var cancel = (CancelTurnRequest) server.requests("CancelTurn").get(0);
        assertEquals("support", cancel.getId());
        assertEquals(query.getRequestId(), cancel.getRequestId());
    }

    @Test
    void itShowsRestartsAndSkills() throws Exception {
        server.script(
                "PostUserQuery",
                List.of(started(), text("One"), Step.fail(Status.UNAVAILABLE)),
                List.of(started(), text("Two"), skillCall("1"), skillResult("1"), completed()));
        chat.shows(PROMPT);
        chat.say("Hello!");
        chat.shows("One\n[the connection broke, and the reply restarts]\nTwo\n" + PROMPT);
        chat.input.close();
        chat.ends("[clock ]\n[result of 1]\n");
    }
}
