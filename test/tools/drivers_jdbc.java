import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import org.postgresql.PGConnection;

/**
 * What a JDBC sink does to cdp.inbox; started by the program "drivers" beside it, which then looks at what is stored.
 * Arguments: JDBC URL, prefix of the message ids.
 */
class DriversJdbc {
    static final String INSERT = "INSERT INTO cdp.inbox (message, source) VALUES (?, ?)";
    static final String COPY = "COPY cdp.inbox (message) FROM STDIN (FORMAT csv, QUOTE e'\\x01', DELIMITER e'\\x02')";
    static final int BATCH = 300;
    static final int COPIED = 50;

    static String message(String id) {
        return "{\"type\":\"track\",\"messageId\":\"" + id + "\",\"userId\":\"u-" + id.substring(0, 3)
            + "\",\"event\":\"\u00dcn\u00ef\",\"originalTimestamp\":\"2026-03-01T00:00:00Z\",\"properties\":{\"a\":\"b\\\"c\"}}";
    }

    static void insert(Connection c, String body) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(INSERT)) {
            s.setString(1, body);
            s.setString(2, "sql");
            s.executeUpdate();
        }
    }

    /** A batch of many rows, one of them broken; no element may be reported as failed. */
    static int batch(Connection c, String prefix) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(INSERT)) {
            for (int i = 0; i <= BATCH; i++) {
                s.setString(1, i == BATCH ? "{\"type\":" : message(prefix + i));
                s.setString(2, "sql");
                s.addBatch();
            }
            int good = 0;
            for (int n : s.executeBatch()) {
                good += n == 1 || n == Statement.SUCCESS_NO_INFO ? 1 : 0;
            }
            return good - 1;
        }
    }

    static void transactions(Connection c, String prefix) throws SQLException {
        c.setAutoCommit(false);
        insert(c, message(prefix + "again"));
        c.rollback();
        insert(c, message(prefix + "kept"));
        Savepoint s = c.setSavepoint();
        insert(c, message(prefix + "lost"));
        c.rollback(s);
        insert(c, message(prefix + "again"));
        c.commit();
        batch(c, prefix + "rolled-back-");
        c.rollback();
        c.setAutoCommit(true);
    }

    public static void main(String[] args) throws Exception {
        String prefix = args[1];
        try (Connection c = DriverManager.getConnection(args[0])) {
            System.out.println("batch=" + batch(c, prefix));
            try (PreparedStatement s = c.prepareStatement("INSERT INTO cdp.inbox (message) VALUES (?) ON CONFLICT DO NOTHING")) {
                s.setString(1, message(prefix + "one"));
                System.out.println("prepared=" + s.executeUpdate());
            }
            StringBuilder lines = new StringBuilder();
            for (int i = 0; i < COPIED; i++) {
                lines.append(message(prefix + "copy" + i)).append('\n');
            }
            System.out.println("copy=" + c.unwrap(PGConnection.class).getCopyAPI().copyIn(COPY, new StringReader(lines.toString())));
            try (PreparedStatement s = c.prepareStatement("SELECT outcome FROM cdp.ingest(?::jsonb)")) {
                s.setString(1, message(prefix + "ingest"));
                ResultSet r = s.executeQuery();
                r.next();
                System.out.println("ingest=" + r.getString(1));
            }
            transactions(c, prefix);
        }
    }
}
