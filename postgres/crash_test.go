package postgres_test

const victimVariable = "MUSTER_POSTGRES_VICTIM"
