package chat.palaver;

import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Decides whether a target can only mean this machine, so that traffic to it can't be read on the way. */
final class LocalTarget {
    private static final Pattern UNIX_SOCKET = Pattern.compile("unix:(?:///|(?!//)).+");
    // Not "dns://authority/name": the name server that it names may return any address.
    private static final Pattern HOST_AND_PORT =
            Pattern.compile("(?:dns:(?:///)?)?(?<host>[a-zA-Z]+|[0-9.]+|\\[[0-9a-fA-F:.]+])(?::[0-9]+)?");
    private static final Pattern LOOPBACK =
            Pattern.compile("127(?:\\.(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}");

    private LocalTarget() {}

    /** Returns whether a target, in gRPC's syntax, can only mean this machine. Unknown syntax is not local. */
    static boolean isLocal(String target) {
        if (UNIX_SOCKET.matcher(target).matches()) {
            return true;
        }
        Matcher matcher = HOST_AND_PORT.matcher(target);
        return matcher.matches() && isLocalHost(matcher.group("host"));
    }

    private static boolean isLocalHost(String host) {
        return host.startsWith("[")
                ? isIpv6Loopback(host)
                : host.equalsIgnoreCase("localhost") || LOOPBACK.matcher(host).matches();
    }

    /** Returns whether an address in brackets is a loopback address. A host in brackets is never looked up by name. */
    private static boolean isIpv6Loopback(String host) {
        try {
            return InetAddress.getByName(host).isLoopbackAddress();
        } catch (UnknownHostException e) {
            return false;
        }
    }
}
