package chat.palaver.support;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;

/** A proxy in front of a server that can cut its connections. */
public final class CuttingProxy implements AutoCloseable {
    private final ServerSocket listener;
    private final int upstream;
    private final List<Socket> sockets = new ArrayList<>();
    private boolean isAccepting = true;
    private boolean isFrozen;
    private int connections;

    public CuttingProxy(ScriptedServer server) throws IOException {
        upstream = server.port();
        listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        start(this::accept);
    }

    public String target() {
        return "127.0.0.1:" + listener.getLocalPort();
    }

    /** Resets all connections. Data in transit is lost. */
    public synchronized void cut() {
        for (Socket socket : sockets) {
            reset(socket);
        }
        sockets.clear();
    }

    /** Sets whether new connections are served or reset immediately. */
    public synchronized void setAccepting(boolean isAccepting) {
        this.isAccepting = isAccepting;
    }

    /** Stops forwarding, and keeps all connections open. */
    public synchronized void freeze() {
        isFrozen = true;
    }

    private synchronized boolean isFrozen() {
        return isFrozen;
    }

    /** Returns the number of connections so far, including those that were reset immediately. */
    public synchronized int connections() {
        return connections;
    }

    @Override
    public void close() throws IOException {
        listener.close();
        cut();
    }

    private void accept() {
        try {
            while (true) {
                serve(listener.accept());
            }
        } catch (IOException closed) {
            // the end of the test
        }
    }

    private synchronized void serve(Socket socket) throws IOException {
        connections++;
        if (!isAccepting) {
            reset(socket);
            return;
        }
        Socket other = new Socket(InetAddress.getLoopbackAddress(), upstream);
        sockets.add(socket);
        sockets.add(other);
        start(() -> pump(socket, other));
        start(() -> pump(other, socket));
    }

    private void pump(Socket from, Socket to) {
        try {
            InputStream input = from.getInputStream();
            OutputStream output = to.getOutputStream();
            byte[] buffer = new byte[65_536];
            for (int count = input.read(buffer); count >= 0; count = input.read(buffer)) {
                if (!isFrozen()) {
                    output.write(buffer, 0, count);
                }
            }
        } catch (IOException gone) {
            // one of the two sides
        }
        reset(from);
        reset(to);
    }

    private static void reset(Socket socket) {
        try {
            socket.setSoLinger(true, 0);
            socket.close();
        } catch (IOException e) {
            if (!socket.isClosed()) {
                throw new UncheckedIOException(e);
            }
        }
    }

    private static void start(Runnable task) {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        thread.start();
    }
}
