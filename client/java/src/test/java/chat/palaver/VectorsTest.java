package chat.palaver;

import static org.junit.jupiter.api.Assertions.assertEquals;

import chat.palaver.support.Vectors;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

class VectorsTest {
    @Test
    void allFilesAreTested() throws Exception {
        try (var files = Files.list(Vectors.FOLDER)) {
            assertEquals(
                    Set.of(
                            Vectors.BREAKS,
                            Vectors.LOCAL_TARGETS,
                            Vectors.PAUSES,
                            Vectors.REPLAY,
                            Vectors.SERVICE_CONFIG,
                            Vectors.TERMINAL),
                    files.map(Path::getFileName)
                            .map(Path::toString)
                            .filter(name -> !name.equals("README.md"))
                            .collect(Collectors.toSet()));
        }
    }
}
