/** A worker that does not even start. */
throw new Error("no such luck");
