package chat.palaver;

import io.grpc.CallCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.concurrent.Executor;
import java.util.function.Supplier;

/** The token that calls send: the result of a supplier, which is asked before each call. */
final class BearerToken extends CallCredentials {
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final Supplier<String> supplier;

    BearerToken(Supplier<String> supplier) {
        this.supplier = supplier;
    }

    /**
     * Returns the headers for a token.
     *
     * @throws IllegalArgumentException if the token is not a valid header; the exception does not show it
     */
    static Metadata headers(String token) {
        if (!token.matches("[!-~]([ -~]*[!-~])?")) {
            throw new IllegalArgumentException("the token must consist of visible ASCII characters");
        }
        Metadata headers = new Metadata();
        headers.put(AUTHORIZATION, "Bearer " + token);
        return headers;
    }

    /** Asks the supplier on the executor, because it may block. gRPC then makes the call or fails it. */
    @Override
    public void applyRequestMetadata(RequestInfo info, Executor executor, MetadataApplier applier) {
        executor.execute(() -> {
            Metadata headers;
            try {
                headers = headers(supplier.get());
            } catch (RuntimeException e) {
                applier.fail(Status.UNAUTHENTICATED
                        .withDescription("the token supplier failed")
                        .withCause(e));
                return;
            }
            applier.apply(headers);
        });
    }
}
