"""The result of a build: report.json (a contract), report.md, report.html and the table at the end."""
