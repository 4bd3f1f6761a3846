package chat.palaver.support;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.concurrent.atomic.AtomicInteger;

/** Resets every HTTP/2 stream, like a proxy that has lost its server. */
public final class ResettingServer implements AutoCloseable {
    private static final int PREFACE_LENGTH = 24;
    private static final int HEADERS = 1;
    private static final int RST_STREAM = 3;
    private static final int SETTINGS = 4;

    private final ServerSocket listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    private final AtomicInteger streams = new AtomicInteger();
    private final int errorCode;

    public ResettingServer(int errorCode) throws IOException {
        this.errorCode = errorCode;
        start(this::accept);
    }

    public String target() {
        return "127.0.0.1:" + listener.getLocalPort();
    }

    /** Returns the number of streams that were reset. */
    public int streams() {
        return streams.get();
    }

    @Override
    public void close() throws IOException {
        listener.close();
    }

    private void accept() {
        try {
            while (true) {
                Socket socket = listener.accept();
                start(() -> serve(socket));
            }
        } catch (IOException closed) {
            // the end of the test
        }
    }

    private void serve(Socket socket) {
        try (socket) {
            DataInputStream input = new DataInputStream(socket.getInputStream());
            DataOutputStream output = new DataOutputStream(socket.getOutputStream());
            input.skipNBytes(PREFACE_LENGTH);
            writeFrame(output, SETTINGS, 0, 0);
            while (true) {
                int length = (input.readUnsignedShort() << 8) + input.readUnsignedByte();
                int type = input.readUnsignedByte();
                boolean isAcknowledgement = (input.readUnsignedByte() & 1) == 1;
                int stream = input.readInt();
                input.skipNBytes(length);
                if (type == SETTINGS && !isAcknowledgement) {
                    writeFrame(output, SETTINGS, 1, 0);
                } else if (type == HEADERS) {
                    streams.incrementAndGet();
                    writeFrame(output, RST_STREAM, 0, stream, errorCode);
                }
            }
        } catch (IOException gone) {
            // the client has disconnected
        }
    }

    private static void writeFrame(DataOutputStream output, int type, int flags, int stream, int... payload)
            throws IOException {
        output.writeShort(0);
        output.writeByte(4 * payload.length);
        output.writeByte(type);
        output.writeByte(flags);
        output.writeInt(stream);
        for (int word : payload) {
            output.writeInt(word);
        }
        output.flush();
    }

    private static void start(Runnable task) {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        thread.start();
    }
}
