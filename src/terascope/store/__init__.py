"""The database: connection, migrations, one repository per table."""
