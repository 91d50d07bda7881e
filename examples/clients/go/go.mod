module judge-client

go 1.19
