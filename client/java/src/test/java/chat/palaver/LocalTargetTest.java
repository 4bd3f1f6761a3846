package chat.palaver;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertThrows;

import chat.palaver.support.Vectors;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Tests which targets may get a token in the clear. */
class LocalTargetTest {
    record Vector(String name, String target, boolean local, List<String> unsupported_in) {
        boolean isSupported() {
            return unsupported_in == null || !unsupported_in.contains("java");
        }
    }

    static List<Vector> vectors() {
        return Vectors.read(Vectors.LOCAL_TARGETS, Vector.class);
    }

    @ParameterizedTest
    @MethodSource("vectors")
    void onlyLocalTargetsGetATokenInTheClear(Vector vector) {
        var builder = PalaverClient.builder().target(vector.target).token("secret");
        if (vector.local && vector.isSupported()) {
            assertDoesNotThrow(() -> builder.build().close());
        } else {
            assertThrows(IllegalArgumentException.class, () -> builder.build().close());
        }
    }
}
