package chat.palaver.example;

import static org.junit.jupiter.api.Assertions.assertEquals;

import chat.palaver.support.Vectors;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Tests what the terminal chat prints of a text. */
class PrintableTest {
    record Vector(String name, String text, String printed) {}

    static List<Vector> vectors() {
        return Vectors.read(Vectors.TERMINAL, Vector.class);
    }

    @ParameterizedTest
    @MethodSource("vectors")
    void onlyPrintableCharactersArePrinted(Vector vector) {
        assertEquals(vector.printed, Printable.printable(vector.text));
    }
}
