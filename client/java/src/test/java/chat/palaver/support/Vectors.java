package chat.palaver.support;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;

import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonParser;
import io.grpc.Status;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** Reads the test vectors that the clients in all languages share; {@code client/vectors/README.md} describes them. */
public final class Vectors {
    public static final Path FOLDER = Path.of("../vectors");
    public static final String BREAKS = "breaks.json";
    public static final String LOCAL_TARGETS = "local_targets.json";
    public static final String PAUSES = "pauses.json";
    public static final String REPLAY = "replay.json";
    public static final String SERVICE_CONFIG = "service_config.json";
    public static final String TERMINAL = "terminal.json";

    private static final Gson GSON = new Gson();

    /** An error of a call. The optional fields are null if they are missing. */
    public record Failure(String status, String reason, String message, Long retry_delay_ms) {
        public Status.Code code() {
            return Status.Code.valueOf(status);
        }
    }

    private Vectors() {}

    /** Reads a file of vectors, each of this type. Fails on fields that the type lacks. */
    public static <T extends Record> List<T> read(String file, Class<T> type) {
        List<T> vectors = json(file).getAsJsonArray().asList().stream()
                .map(vector -> read(vector, type))
                .toList();
        assertNotEquals(0, vectors.size());
        return vectors;
    }

    /** Reads a file as JSON. */
    public static JsonElement json(String file) {
        try {
            return JsonParser.parseString(Files.readString(FOLDER.resolve(file)));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static <T extends Record> T read(JsonElement json, Class<T> type) {
        T vector = GSON.fromJson(json, type);
        assertEquals(json, GSON.toJsonTree(vector), "unknown fields");
        return vector;
    }
}
