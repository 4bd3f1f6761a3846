package chat.palaver;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

import chat.palaver.v1.AssistantServiceGrpc;
import chat.palaver.v1.AssistantServiceGrpc.AssistantServiceStub;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ConnectivityState;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.MethodDescriptor;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;

/** The channel and the state that all calls of a client share. */
final class Connection {
    // The contract keeps responses below 4 MiB. gRPC's default limit is exactly 4 MiB, which leaves no headroom.
    private static final int MAX_RESPONSE_BYTES = 8 * 1024 * 1024;
    // A model may be silent for a long time. Pings detect a server that is gone.
    private static final long KEEPALIVE_SECONDS = 30;
    private static final long KEEPALIVE_TIMEOUT_SECONDS = 10;
    private static final long MIN_BACKOFF_NANOS = MILLISECONDS.toNanos(200);

    /** A call that is in progress. Closing the client aborts it. */
    interface Activity {
        void abort(PalaverException error);
    }

    private final ManagedChannel channel;
    private final Duration timeout;
    private final Duration reconnectTimeout;
    private final Set<Activity> activities = ConcurrentHashMap.newKeySet();
    private final AtomicLong lastBackoffReset = new AtomicLong(System.nanoTime() - MIN_BACKOFF_NANOS);
    private volatile boolean isClosed;

    /** Creates the channel with the options of a builder. */
    Connection(PalaverClient.Builder options) {
        timeout = options.timeout;
        reconnectTimeout = options.reconnectTimeout;
        ManagedChannelBuilder<?> builder = newChannelBuilder(options)
                .userAgent("palaver-java/" + version())
                .defaultServiceConfig(ServiceConfig.VALUE)
                .maxInboundMessageSize(MAX_RESPONSE_BYTES)
                .keepAliveTime(KEEPALIVE_SECONDS, SECONDS)
                .keepAliveTimeout(KEEPALIVE_TIMEOUT_SECONDS, SECONDS);
        if (options.token != null) {
            builder.intercept(MetadataUtils.newAttachHeadersInterceptor(BearerToken.headers(options.token)));
        }
        if (options.tokenSupplier != null) {
            builder.intercept(new TokenInterceptor(new BearerToken(options.tokenSupplier)));
        }
        if (LocalTarget.isLocal(options.target)) {
            builder.proxyDetector(address -> null); // a proxy of the Java runtime may apply even to this machine
        }
        options.channelConfigurator.accept(builder);
        channel = builder.build();
    }

    ManagedChannel channel() {
        return channel;
    }

    /**
     * Returns the deadline of a call that starts now, or null for none.
     *
     * @param callTimeout the timeout of the call, or null for the client's
     */
    Deadline deadline(Duration callTimeout) {
        Duration effective = callTimeout == null ? timeout : callTimeout;
        long nanos = effective == null ? Long.MAX_VALUE : NANOSECONDS.convert(effective);
        Deadline own = nanos == Long.MAX_VALUE ? null : Deadline.after(nanos, NANOSECONDS);
        Deadline inherited = Context.current().getDeadline(); // gRPC applies it to each call; retries need it, too
        if (inherited == null) {
            return own;
        }
        return own == null ? inherited : inherited.minimum(own);
    }

    /** Returns the retry budget of a turn with this deadline, which may be null. */
    RetryBudget retryBudget(Deadline deadline) {
        return new RetryBudget(deadline, reconnectTimeout, Deadline.getSystemTicker());
    }

    /** Returns the stub for one call. A channel in backoff reconnects for it. */
    AssistantServiceStub stub(Deadline deadline) {
        resetBackoff();
        return AssistantServiceGrpc.newStub(channel).withDeadline(deadline);
    }

    void begin(Activity activity) {
        activities.add(activity);
        if (isClosed) { // `close` may have run before the call was added
            activity.abort(closed());
        }
    }

    void end(Activity activity) {
        activities.remove(activity);
    }

    /**
     * Checks that a call can be started.
     *
     * @throws IllegalStateException if the client is closed
     */
    void checkOpen() {
        if (isClosed) {
            throw new IllegalStateException("the client is closed");
        }
    }

    void close() {
        isClosed = true;
        activities.forEach(activity -> activity.abort(closed()));
        channel.shutdownNow();
    }

    private static PalaverException closed() {
        return PalaverException.cancelled("the client was closed", null);
    }

    /** Runs a task after a delay, unless the returned future is cancelled before. */
    static Future<?> schedule(Duration delay, Runnable task) {
        var timer = new CompletableFuture<Void>().completeOnTimeout(null, NANOSECONDS.convert(delay), NANOSECONDS);
        var unused = timer.thenRunAsync(task); // not on the timer's own thread, which the whole JVM shares
        return timer;
    }

    /**
     * Makes a channel that is in backoff reconnect now. gRPC for Java has no setting for its backoff, which grows to two
     * minutes: too long for a server that is only being replaced.
     */
    private void resetBackoff() {
        long now = System.nanoTime();
        long last = lastBackoffReset.get();
        if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE
                && now - last >= MIN_BACKOFF_NANOS
                && lastBackoffReset.compareAndSet(last, now)) {
            channel.resetConnectBackoff();
        }
    }

    private static ManagedChannelBuilder<?> newChannelBuilder(PalaverClient.Builder options) {
        ChannelCredentials credentials = credentials(options);
        try {
            return Grpc.newChannelBuilder(options.target, credentials);
        } catch (RuntimeException e) { // its class depends on the transport that rejects the target
            throw new IllegalArgumentException(e.getMessage(), e);
        }
    }

    private static ChannelCredentials credentials(PalaverClient.Builder options) {
        if (!options.isTls) {
            return InsecureChannelCredentials.create();
        }
        try {
            TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
            if (options.certificateAuthorities != null) {
                tls.trustManager(options.certificateAuthorities.toFile());
            }
            if (options.clientCertificate != null) {
                options.clientCertificate.check();
                tls.keyManager(
                        options.clientCertificate.certificate().toFile(),
                        options.clientCertificate.key().toFile());
            }
            return tls.build();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Adds the token to every call. Unlike the credentials of a channel, it does so on plaintext channels, too. */
    private record TokenInterceptor(BearerToken token) implements ClientInterceptor {
        @Override
        public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
            return next.newCall(method, options.withCallCredentials(token));
        }
    }

    private static String version() {
        try (InputStream resource = Connection.class.getResourceAsStream("client.properties")) {
            Properties properties = new Properties();
            properties.load(resource);
            return properties.getProperty("version");
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
