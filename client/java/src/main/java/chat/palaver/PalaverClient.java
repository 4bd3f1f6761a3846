package chat.palaver;

import chat.palaver.v1.Assistant;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.Message;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.TurnCompleted;
import com.google.errorprone.annotations.MustBeClosed;
import io.grpc.Channel;
import io.grpc.ManagedChannelBuilder;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Objects;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.function.Consumer;
import java.util.function.Supplier;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * A client of a Palaver server. It is thread-safe, and one is enough for a whole program.
 *
 * <pre>{@code
 * try (PalaverClient client = PalaverClient.connect("127.0.0.1:50051")) {
 *     client.createAssistant(CreateAssistantRequest.newBuilder()
 *             .setId("support-42")
 *             .setIfExists(IfExists.IF_EXISTS_KEEP)
 *             .build());
 *     PostUserQueryRequest query = PostUserQueryRequest.newBuilder()
 *             .setId("support-42")
 *             .setUserMessage("Hello!")
 *             .build();
 *     try (Reply reply = client.postUserQuery(query)) {
 *         for (String text : reply.text()) {
 *             System.out.print(text);
 *         }
 *     }
 * }
 * }</pre>
 *
 * <p>All calls share one connection, which the first call opens and which is reopened when it breaks.
 *
 * <p>The timeout of a call is the one that is passed to the method, or else {@link Builder#timeout the client's}, or else
 * none. {@code ChronoUnit.FOREVER.getDuration()} disables the client's timeout for a call. A call that is made within an
 * {@code io.grpc.Context} ends with the context and at its deadline, even if it is retried.
 *
 * <p>All calls throw {@link PalaverException} when they fail. To cancel a call, interrupt its thread: it gets a {@code
 * PalaverException} with the status {@code CANCELLED}, its interrupt flag stays set, and the call ends at the server, too. All
 * calls throw {@link IllegalStateException} if the client is closed.
 */
public final class PalaverClient implements AutoCloseable {
    /** The default target. */
    public static final String DEFAULT_TARGET = "127.0.0.1:50051";

    /** The default reconnect timeout: 10 seconds. */
    public static final Duration DEFAULT_RECONNECT_TIMEOUT = Duration.ofSeconds(10);

    private final Connection connection;
    private final PalaverAsyncClient async;

    private PalaverClient(Builder builder) {
        connection = new Connection(builder);
        async = new PalaverAsyncClient(connection);
    }

    /**
     * Returns a client that uses plaintext and no token.
     *
     * @param target the server: see {@link Builder#target}
     * @return the client
     */
    public static PalaverClient connect(String target) {
        return builder().target(target).build();
    }

    /**
     * Returns a builder for a client.
     *
     * @return the builder, with the default of each option
     */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Returns the asynchronous calls of this client.
     *
     * @return the calls, which share the connection of this client
     */
    public PalaverAsyncClient async() {
        return async;
    }

    /**
     * Returns the gRPC channel, for calls that the client does not offer. Stubs on this channel send the client's token, but
     * use neither its timeouts nor its exceptions.
     *
     * @return the channel, which this client closes
     */
    public Channel channel() {
        return connection.channel();
    }

    /** Closes the connection and cancels all running calls. Closing again does nothing. */
    @Override
    public void close() {
        connection.close();
    }

    /**
     * Creates an assistant. Its conversation starts with only its instructions.
     *
     * @param request the assistant, and what to do if it exists
     * @return the assistant, and whether it was created
     */
    public CreateAssistantResponse createAssistant(CreateAssistantRequest request) {
        return await(async.createAssistant(request));
    }

    /**
     * Creates an assistant, with its own timeout.
     *
     * @param request the assistant, and what to do if it exists
     * @param timeout the timeout of this call, or null for the client's
     * @return the assistant, and whether it was created
     */
    public CreateAssistantResponse createAssistant(CreateAssistantRequest request, Duration timeout) {
        return await(async.createAssistant(request, timeout));
    }

    /**
     * Returns the current state of an assistant. The call is retried while the server is unavailable.
     *
     * @param request the assistant
     * @return the assistant
     */
    public Assistant getAssistant(GetAssistantRequest request) {
        return await(async.getAssistant(request));
    }

    /**
     * Returns the current state of an assistant, with its own timeout.
     *
     * @param request the assistant
     * @param timeout the timeout of this call, or null for the client's
     * @return the assistant
     */
    public Assistant getAssistant(GetAssistantRequest request, Duration timeout) {
        return await(async.getAssistant(request, timeout));
    }

    /**
     * Returns the messages of an assistant, from all pages. The stream fetches each page when it is needed, retries while
     * the server is unavailable, and throws the errors of these calls.
     *
     * @param request the assistant, the filter and order of the messages, and how many to fetch per page ({@code page_size})
     * @return the messages
     */
    public Stream<Message> listMessages(ListMessagesRequest request) {
        return listMessages(request, null);
    }

    /**
     * Returns the messages of an assistant, from all pages, with its own timeout.
     *
     * @param request the assistant, the filter and order of the messages, and how many to fetch per page ({@code page_size})
     * @param timeout the timeout of each page, or null for the client's
     * @return the messages
     */
    public Stream<Message> listMessages(ListMessagesRequest request, Duration timeout) {
        connection.checkOpen();
        var messages = new MessageIterator(request, page -> await(async.listMessages(page, timeout)));
        int characteristics = Spliterator.ORDERED | Spliterator.NONNULL | Spliterator.IMMUTABLE;
        return StreamSupport.stream(Spliterators.spliteratorUnknownSize(messages, characteristics), false);
    }

    /**
     * Deletes an assistant and all of its messages permanently.
     *
     * @param request the assistant
     */
    public void deleteAssistant(DeleteAssistantRequest request) {
        await(async.deleteAssistant(request));
    }

    /**
     * Deletes an assistant and all of its messages, with its own timeout.
     *
     * @param request the assistant
     * @param timeout the timeout of this call, or null for the client's
     */
    public void deleteAssistant(DeleteAssistantRequest request, Duration timeout) {
        await(async.deleteAssistant(request, timeout));
    }

    /**
     * Posts a user message and streams the reply. The turn is stored as a whole when the reply completes, or not at all. The
     * call starts immediately; the iteration over the reply throws its errors.
     *
     * @param request the assistant, the message, the model and its parameters; the client generates a missing {@code
     *     request_id}
     * @return the reply, to be used in a {@code try} statement
     */
    @MustBeClosed
    public Reply postUserQuery(PostUserQueryRequest request) {
        return postUserQuery(request, null);
    }

    /**
     * Posts a user message and streams the reply, with its own timeout.
     *
     * @param request the assistant, the message, the model and its parameters; the client generates a missing {@code
     *     request_id}
     * @param timeout the timeout of the whole reply, up to its last event, or null for the client's
     * @return the reply, to be used in a {@code try} statement
     */
    @MustBeClosed
    public Reply postUserQuery(PostUserQueryRequest request, Duration timeout) {
        connection.checkOpen();
        return new Reply(connection, PalaverAsyncClient.withRequestId(request), timeout);
    }

    /**
     * Posts a user message and returns the last event of the reply once the turn is stored. The turn is posted again when
     * the connection breaks, like that of a {@link Reply}.
     *
     * @param request the assistant, the message, the model and its parameters
     * @return the stored turn, with its messages
     */
    public TurnCompleted postUserQueryUnary(PostUserQueryRequest request) {
        return await(async.postUserQueryUnary(request));
    }

    /**
     * Posts a user message and returns the last event of the reply, with its own timeout.
     *
     * @param request the assistant, the message, the model and its parameters
     * @param timeout the timeout of the whole turn, or null for the client's
     * @return the stored turn, with its messages
     */
    public TurnCompleted postUserQueryUnary(PostUserQueryRequest request, Duration timeout) {
        return await(async.postUserQueryUnary(request, timeout));
    }

    /**
     * Cancels a running turn of any caller, regardless of its {@code on_disconnect}. The turn is not stored.
     *
     * @param request the assistant and the {@code request_id} of the turn
     */
    public void cancelTurn(CancelTurnRequest request) {
        await(async.cancelTurn(request));
    }

    /**
     * Cancels a running turn of any caller, with its own timeout.
     *
     * @param request the assistant and the {@code request_id} of the turn
     * @param timeout the timeout of this call, or null for the client's
     */
    public void cancelTurn(CancelTurnRequest request, Duration timeout) {
        await(async.cancelTurn(request, timeout));
    }

    private static <T> T await(CompletableFuture<T> call) {
        try {
            return call.get();
        } catch (InterruptedException e) {
            call.cancel(true);
            Thread.currentThread().interrupt();
            throw PalaverException.cancelled("the thread was interrupted while it waited for the call", e);
        } catch (ExecutionException e) {
            throw ((PalaverException) e.getCause()).withCurrentTrace();
        }
    }

    /** The options of a client. Each option has a default. */
    public static final class Builder {
        String target = DEFAULT_TARGET;
        boolean isTls;
        Path certificateAuthorities;
        KeyPairFiles clientCertificate;
        String token;
        Supplier<String> tokenSupplier;
        Duration timeout;
        Duration reconnectTimeout = DEFAULT_RECONNECT_TIMEOUT;
        Consumer<? super ManagedChannelBuilder<?>> channelConfigurator = channel -> {};

        private Builder() {}

        /**
         * Sets the server. The default is {@value PalaverClient#DEFAULT_TARGET}.
         *
         * @param target "host:port", or any other target that gRPC supports ("dns:///host:port", "unix:path")
         * @return this builder
         */
        public Builder target(String target) {
            this.target = Objects.requireNonNull(target, "target");
            return this;
        }

        /**
         * Enables TLS with the certificate authorities of the Java runtime. The default is plaintext.
         *
         * @return this builder
         */
        public Builder tls() {
            isTls = true;
            certificateAuthorities = null;
            return this;
        }

        /**
         * Enables TLS with your own certificate authorities.
         *
         * @param certificateAuthorities a PEM file, which replaces the certificate authorities of the Java runtime
         * @return this builder
         */
        public Builder tls(Path certificateAuthorities) {
            isTls = true;
            this.certificateAuthorities = Objects.requireNonNull(certificateAuthorities, "certificateAuthorities");
            return this;
        }

        /**
         * Sets a bearer token, which every call sends as {@code authorization: Bearer <token>}. Without TLS, a token is
         * accepted only for targets on this machine. The default is none.
         *
         * @param token the token, in visible ASCII characters
         * @return this builder
         */
        public Builder token(String token) {
            this.token = Objects.requireNonNull(token, "token");
            tokenSupplier = null;
            return this;
        }

        /**
         * Sets the supplier of a token that expires. It is asked before every call, every page and every post of a turn, on
         * the threads of the channel, so it should keep its token as long as it is valid. If it throws an exception, the call
         * fails with {@code UNAUTHENTICATED} and an empty reason, and the exception is among the causes.
         *
         * @param supplier returns the token, in visible ASCII characters; it may block
         * @return this builder
         * @see #token(String)
         */
        public Builder token(Supplier<String> supplier) {
            tokenSupplier = Objects.requireNonNull(supplier, "supplier");
            token = null;
            return this;
        }

        /**
         * Sets the certificate to present to a server that asks for one. It requires TLS.
         *
         * @param certificate a PEM file with the certificate chain
         * @param key a PEM file with its private key, in the format PKCS #8 and without a password
         * @return this builder
         */
        public Builder clientCertificate(Path certificate, Path key) {
            clientCertificate = new KeyPairFiles(
                    Objects.requireNonNull(certificate, "certificate"), Objects.requireNonNull(key, "key"));
            return this;
        }

        /**
         * Sets the timeout of calls without their own. For a streamed reply, it covers the whole reply, up to the last event.
         * The default is none.
         *
         * @param timeout the timeout from the start of a call, more than zero
         * @return this builder
         */
        public Builder timeout(Duration timeout) {
            if (timeout.isNegative() || timeout.isZero()) {
                throw new IllegalArgumentException("the timeout must be more than zero, not " + timeout);
            }
            this.timeout = timeout;
            return this;
        }

        /**
         * Sets how long a turn may be without a connection. When the connection breaks or the server shuts down, the turn is
         * posted again, and each event of the reply is delivered once. The default is 10 seconds.
         *
         * @param reconnectTimeout the time from the first break; zero disables posting again
         * @return this builder
         */
        public Builder reconnectTimeout(Duration reconnectTimeout) {
            if (reconnectTimeout.isNegative()) {
                throw new IllegalArgumentException("the reconnect timeout must not be negative: " + reconnectTimeout);
            }
            this.reconnectTimeout = reconnectTimeout;
            return this;
        }

        /**
         * Sets a callback that configures the gRPC channel: interceptors, an executor, other limits. Its settings override
         * the client's.
         *
         * @param configurator takes the builder of the channel
         * @return this builder
         */
        public Builder configureChannel(Consumer<? super ManagedChannelBuilder<?>> configurator) {
            channelConfigurator = Objects.requireNonNull(configurator, "configurator");
            return this;
        }

        /**
         * Returns the client. The first call opens the connection.
         *
         * @return the client
         * @throws IllegalArgumentException if the token would leave this machine without TLS or contains characters other than
         *     visible ASCII, if the target or the certificate authorities are invalid, or if the client certificate lacks TLS
         *     or does not belong to its key
         * @throws java.io.UncheckedIOException if a PEM file can't be read
         */
        public PalaverClient build() {
            if (clientCertificate != null && !isTls) {
                throw new IllegalArgumentException("a client certificate requires TLS");
            }
            boolean hasToken = token != null || tokenSupplier != null;
            if (hasToken && !isTls && !LocalTarget.isLocal(target)) {
                throw new IllegalArgumentException(
                        "the token would be sent to \"" + target + "\" in the clear: use TLS");
            }
            return new PalaverClient(this);
        }
    }
}
