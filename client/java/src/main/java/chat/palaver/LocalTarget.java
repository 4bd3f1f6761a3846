package chat.palaver;

import java.net.InetAddress;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.UnknownHostException;

/** Whether a target can only mean this machine, so that nobody can read along on the way. */
final class LocalTarget {
    private LocalTarget() {}

    /** Takes a target in gRPC's syntax for names. What can't be read counts as another machine. */
    static boolean isLocal(String target) {
        if (target.startsWith("unix:")) {
            return true;
        }
        // Not "dns://authority/name", which asks a name server of its own: that may answer anything.
        String name = target.replaceFirst("^dns:(///)?", "");
        try {
            String host = new URI("//" + name).getHost(); // read as gRPC reads it
            return host != null && (host.equalsIgnoreCase("localhost") || isLoopbackAddress(host));
        } catch (URISyntaxException e) {
            return false;
        }
    }

    private static boolean isLoopbackAddress(String host) {
        if (!host.startsWith("[") && !host.matches("[0-9.]+")) {
            return false; // a name, and nobody is to be asked for its address
        }
        try {
            return InetAddress.getByName(host).isLoopbackAddress();
        } catch (UnknownHostException e) {
            return false;
        }
    }
}
