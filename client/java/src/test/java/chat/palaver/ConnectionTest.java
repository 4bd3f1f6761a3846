package chat.palaver;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import chat.palaver.support.Certificate;
import chat.palaver.support.CuttingProxy;
import chat.palaver.support.Replies;
import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.v1.AssistantServiceGrpc;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CancelTurnResponse;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.PostUserQueryRequest;
import io.grpc.Status;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;

/** Tests the options of the client and the metadata of its calls. */
class ConnectionTest {
    private static final GetAssistantRequest GET =
            GetAssistantRequest.newBuilder().setId("support").build();

    @TempDir
    static Path folder;

    private static Certificate ours;
    private static Certificate others;

    @BeforeAll
    static void makeCertificates() throws Exception {
        ours = Certificate.make(folder, "ours");
        others = Certificate.make(folder, "others");
    }

    private static void scriptAll(ScriptedServer server) {
        server.script("GetAssistant", List.of(Replies.gotAssistant()));
        server.script("CancelTurn", List.of(Step.send(CancelTurnResponse.getDefaultInstance())));
        server.script("PostUserQuery", Replies.turn("Hi"));
        server.script("PostUserQueryUnary", List.of(Replies.completedUnary()));
    }

    private static void callAll(PalaverClient client) {
        client.getAssistant(GET);
        client.cancelTurn(CancelTurnRequest.getDefaultInstance());
        client.postUserQueryUnary(PostUserQueryRequest.getDefaultInstance());
        try (Reply reply = client.postUserQuery(PostUserQueryRequest.getDefaultInstance())) {
            reply.forEach(event -> {});
        }
        var unused = AssistantServiceGrpc.newBlockingStub(client.channel()).getAssistant(GET);
    }

    @Test
    void everyCallSendsTheTokenOverTls() throws Exception {
        try (ScriptedServer server = new ScriptedServer(ours.serverCredentials());
                PalaverClient client = PalaverClient.builder()
                        .target("localhost:" + server.port())
                        .tls(ours.certificate())
                        .token("secret 1")
                        .build()) {
            scriptAll(server);
            callAll(client);
            assertEquals(5, server.calls().size());
            server.calls().forEach(call -> assertEquals("Bearer secret 1", call.header("authorization")));
        }
    }

    @Test
    void everyCallSendsTheTokenToThisMachineInPlaintext() throws Exception {
        try (ScriptedServer server = new ScriptedServer();
                PalaverClient client = PalaverClient.builder()
                        .target(server.target())
                        .token("secret-1")
                        .build()) {
            scriptAll(server);
            callAll(client);
            server.calls().forEach(call -> assertEquals("Bearer secret-1", call.header("authorization")));
        }
    }

    @Test
    void noTokenIsSentByDefaultAndTheUserAgentNamesTheClient() throws Exception {
        try (ScriptedServer server = new ScriptedServer();
                PalaverClient client = PalaverClient.connect(server.target())) {
            scriptAll(server);
            callAll(client);
            server.calls().forEach(call -> {
                assertNull(call.header("authorization"));
                assertTrue(
                        call.header("user-agent").matches("palaver-java/\\d+\\.\\d+\\.\\d+ .+"),
                        call.header("user-agent"));
            });
        }
    }

    @Test
    void theSupplierOfTheTokenIsAskedBeforeEveryCall() throws Exception {
        for (boolean isTls : List.of(true, false)) {
            AtomicInteger count = new AtomicInteger();
            try (ScriptedServer server = isTls ? new ScriptedServer(ours.serverCredentials()) : new ScriptedServer()) {
                var builder = PalaverClient.builder()
                        .target("localhost:" + server.port())
                        .token(() -> "t-" + count.incrementAndGet());
                scriptAll(server);
                try (PalaverClient client = (isTls ? builder.tls(ours.certificate()) : builder).build()) {
                    callAll(client);
                }
                assertEquals(
                        List.of("Bearer t-1", "Bearer t-2", "Bearer t-3", "Bearer t-4", "Bearer t-5"),
                        server.calls().stream()
                                .map(call -> call.header("authorization"))
                                .toList());
            }
        }
    }

    @Test
    void theExceptionOfTheSupplierReachesTheCaller() throws Exception {
        Supplier<String> locked = () -> {
            throw new IllegalStateException("the vault is locked");
        };
        try (ScriptedServer server = new ScriptedServer()) {
            scriptAll(server);
            for (Supplier<String> supplier : List.<Supplier<String>>of(locked, () -> "two\nlines", () -> null)) {
                try (PalaverClient client = PalaverClient.builder()
                        .target(server.target())
                        .token(supplier)
                        .build()) {
                    for (Executable call : List.<Executable>of(
                            () -> client.getAssistant(GET),
                            () -> client.postUserQueryUnary(PostUserQueryRequest.getDefaultInstance()),
                            () -> client.postUserQuery(PostUserQueryRequest.getDefaultInstance())
                                    .forEach(event -> {}))) {
                        PalaverException error = assertThrows(PalaverException.class, call);
                        assertEquals(Status.Code.UNAUTHENTICATED, error.status());
                        assertEquals("", error.reason());
                        assertTrue(error.description().startsWith("the token supplier failed: "), error.getMessage());
                        assertInstanceOf(
                                RuntimeException.class, error.getCause().getCause());
                    }
                }
            }
            assertEquals(List.of(), server.calls());
        }
    }

    @Test
    void waitingForATokenCountsTowardsTheTimeout() throws Exception {
        CompletableFuture<String> token = new CompletableFuture<>();
        try (ScriptedServer server = new ScriptedServer();
                PalaverClient client = PalaverClient.builder()
                        .target(server.target())
                        .token(token::join)
                        .build()) {
            PalaverException error =
                    assertThrows(PalaverException.class, () -> client.getAssistant(GET, Duration.ofMillis(50)));
            assertEquals(Status.Code.DEADLINE_EXCEEDED, error.status());
            assertEquals(List.of(), server.calls());
        } finally {
            token.complete("too late");
        }
    }

    @Test
    void aServerMayRequireACertificate() throws Exception {
        try (ScriptedServer server = new ScriptedServer(ours.mutualServerCredentials())) {
            scriptAll(server);
            var builder =
                    PalaverClient.builder().target("localhost:" + server.port()).tls(ours.certificate());
            try (PalaverClient client = builder.build()) {
                PalaverException error = assertThrows(PalaverException.class, () -> client.getAssistant(GET));
                assertEquals(Status.Code.UNAVAILABLE, error.status());
            }
            assertEquals(List.of(), server.calls());
            try (PalaverClient client =
                    builder.clientCertificate(ours.certificate(), ours.key()).build()) {
                callAll(client);
            }
            assertEquals(5, server.calls().size());
        }
    }

    @Test
    void aClientCertificateRequiresTlsAndItsKey() {
        var plaintext = PalaverClient.builder().clientCertificate(ours.certificate(), ours.key());
        assertThrows(IllegalArgumentException.class, plaintext::build);
        var mismatched = PalaverClient.builder().tls().clientCertificate(ours.certificate(), others.key());
        assertThrows(IllegalArgumentException.class, mismatched::build);
        var garbage = PalaverClient.builder().tls().clientCertificate(ours.certificate(), ours.certificate());
        assertThrows(IllegalArgumentException.class, garbage::build);
        var missing = PalaverClient.builder().tls().clientCertificate(folder.resolve("missing.pem"), ours.key());
        assertThrows(UncheckedIOException.class, missing::build);
    }

    @Test
    void aTokenForAnotherMachineNeedsTls() {
        var builder = PalaverClient.builder().target("palaver.example:443").token("secret-1");
        assertThrows(IllegalArgumentException.class, builder::build);
        builder.tls().build().close();
    }

    @Test
    void callsToThisMachineBypassProxies() throws Exception {
        ProxySelector before = ProxySelector.getDefault();
        ProxySelector.setDefault(ProxySelector.of(new InetSocketAddress(InetAddress.getLoopbackAddress(), 9)));
        try (ScriptedServer server = new ScriptedServer();
                PalaverClient client = PalaverClient.builder()
                        .target("localhost:" + server.port())
                        .token("secret-1")
                        .build()) {
            scriptAll(server);
            callAll(client);
        } finally {
            ProxySelector.setDefault(before);
        }
    }

    @Test
    void aTokenConsistsOfVisibleAscii() {
        for (String token : List.of("", " ", " a", "a ", "a\nb", "a\u0000", "é", "\u007f")) {
            var builder = PalaverClient.builder().token(token);
            assertThrows(IllegalArgumentException.class, builder::build);
        }
    }

    @Test
    void aServerWithAnUntrustedCertificateIsUnavailable() throws Exception {
        try (ScriptedServer server = new ScriptedServer(ours.serverCredentials())) {
            for (var builder : List.of(
                    PalaverClient.builder().tls(),
                    PalaverClient.builder().tls(others.certificate()),
                    PalaverClient.builder())) {
                try (PalaverClient client = builder.target("localhost:" + server.port())
                        .reconnectTimeout(Duration.ZERO)
                        .build()) {
                    PalaverException error = assertThrows(PalaverException.class, () -> client.getAssistant(GET));
                    assertEquals(Status.Code.UNAVAILABLE, error.status());
                }
            }
            assertEquals(List.of(), server.calls());
        }
    }

    @Test
    void unreadableCertificateAuthoritiesAreRejected() throws Exception {
        var missing = PalaverClient.builder().tls(folder.resolve("missing.pem"));
        assertThrows(UncheckedIOException.class, missing::build);
        var garbage = PalaverClient.builder().tls(Files.writeString(folder.resolve("garbage.pem"), "garbage"));
        assertThrows(IllegalArgumentException.class, garbage::build);
    }

    @Test
    void invalidTimeoutsAreRejected() {
        var builder = PalaverClient.builder();
        assertThrows(IllegalArgumentException.class, () -> builder.timeout(Duration.ZERO));
        assertThrows(IllegalArgumentException.class, () -> builder.timeout(Duration.ofSeconds(-1)));
        assertThrows(IllegalArgumentException.class, () -> builder.reconnectTimeout(Duration.ofSeconds(-1)));
    }

    @Test
    void allCallsShareOneConnectionThatIsReopenedWhenItBreaks() throws Exception {
        try (ScriptedServer server = new ScriptedServer();
                CuttingProxy proxy = new CuttingProxy(server);
                PalaverClient client = PalaverClient.connect(proxy.target())) {
            scriptAll(server);
            assertEquals(0, proxy.connections());
            callAll(client);
            callAll(client);
            assertEquals(1, proxy.connections());
            proxy.cut();
            callAll(client);
            assertEquals(2, proxy.connections());
        }
    }

    @Test
    void theSettingsOfTheProgramOverrideTheClients() throws Exception {
        try (ScriptedServer server = new ScriptedServer();
                PalaverClient client = PalaverClient.builder()
                        .target(server.target())
                        .configureChannel(channel -> channel.userAgent("mine"))
                        .build()) {
            scriptAll(server);
            client.getAssistant(GET);
            assertTrue(server.calls().get(0).header("user-agent").startsWith("mine "));
        }
    }
}
