package chat.palaver;

import static java.nio.charset.StandardCharsets.ISO_8859_1;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The PEM files of a certificate chain and its private key. */
record KeyPairFiles(Path certificate, Path key) {
    /** Signature algorithms by the algorithm of a key. Keys of other algorithms name their signature themselves. */
    private static final Map<String, String> SIGNATURES = Map.of("RSA", "SHA256withRSA", "EC", "SHA256withECDSA");

    /**
     * Checks that the certificate belongs to the key. gRPC does not: it would fail every connection without a reason.
     *
     * @throws IllegalArgumentException if it does not, or if a file has another content
     * @throws IOException if a file can't be read
     */
    void check() throws IOException {
        try {
            PublicKey publicKey = CertificateFactory.getInstance("X.509")
                    .generateCertificate(new ByteArrayInputStream(read(certificate, "CERTIFICATE")))
                    .getPublicKey();
            String algorithm = publicKey.getAlgorithm();
            PrivateKey privateKey = KeyFactory.getInstance(algorithm)
                    .generatePrivate(new PKCS8EncodedKeySpec(read(key, "PRIVATE KEY")));
            Signature signature = Signature.getInstance(SIGNATURES.getOrDefault(algorithm, algorithm));
            signature.initSign(privateKey);
            byte[] signed = signature.sign();
            signature.initVerify(publicKey);
            if (!signature.verify(signed)) {
                throw new GeneralSecurityException("the key belongs to another certificate");
            }
        } catch (GeneralSecurityException e) {
            throw new IllegalArgumentException(
                    certificate + " and " + key + " are not a certificate and its key in PEM and PKCS #8: "
                            + e.getMessage(),
                    e);
        }
    }

    /** Returns the first block of this kind in a PEM file. */
    private static byte[] read(Path file, String kind) throws IOException, GeneralSecurityException {
        Matcher block = Pattern.compile("-----BEGIN " + kind + "-----([A-Za-z0-9+/=\\s]+)-----END " + kind + "-----")
                .matcher(Files.readString(file, ISO_8859_1));
        if (!block.find()) {
            throw new GeneralSecurityException(file + " contains no " + kind);
        }
        return Base64.getMimeDecoder().decode(block.group(1));
    }
}
