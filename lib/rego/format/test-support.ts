/** Draws a number from 0 up to a bound, exclusive. Zero must be the plainest choice: what fails shrinks towards it. */
export type Draw = (below: number) => number;

/** Glues what follows to what stands before: a call, an index, a step. */
const GLUE = "\u0000";

/** Ends a statement; turns into a semicolon or a line break. */
const END = "\u0001";

/** A rule written so far: it decides how later ones may mention it. */
interface WrittenRule {
  readonly name: string;
  readonly kind: "value" | "set" | "object" | "function";
}

/**
 * Writes a module of package `t` from a grammar: every construct of the language, in no layout that a person would choose,
 * with comments between any two tokens. Most of what it writes compiles; some does not even parse. Its rules are named `p0`,
 * `p1` and so on, and read `input.n`, `input.list`, `input.o`, `data.base` and `data.z`.
 */
export function generateModule(draw: Draw): string {
  return new Generator(draw).module();
}

class Generator {
  readonly #draw: Draw;
  #depth = 0;
  #names = 0;
  #comments = 0;
  readonly #rules: WrittenRule[] = [];

  constructor(draw: Draw) {
    this.#draw = draw;
  }

  module(): string {
    const tokens = ["package", "t", END];
    if (this.#one(2)) tokens.push("import", "rego.v1", END);
    if (this.#one(2)) tokens.push("import", "input.n", "as", "number", END);
    if (this.#one(3)) tokens.push("import", "data.z", END, "import", "data.base", "as", "a", END);
    const count = 1 + this.#draw(5);
    for (let at = 0; at < count; at++) tokens.push(...this.#rule(`p${at}`), END);
    return this.#layout(tokens);
  }

  #one(of: number): boolean {
    return this.#draw(of) === of - 1;
  }

  #pick<T>(...choices: readonly (() => T)[]): T {
    return choices[this.#draw(choices.length)]!();
  }

  #newName(): string {
    return `v${this.#names++}`;
  }

  // Layout

  /** At the end of a statement a comment or a line break may stand, but no comment may hide a semicolon. */
  #layout(tokens: readonly string[]): string {
    let text = "";
    for (const [at, token] of tokens.entries()) {
      if (token === GLUE) continue;
      if (token === END) {
        const next = tokens[at + 1];
        // A line break does not end a statement if the next one starts with a minus.
        if (next !== undefined && next.startsWith("-")) text += `;${this.#gap()}`;
        else
          text += this.#pick(
            () => "\n",
            () => ";",
            () => `${this.#gap()};${this.#gap()}`,
            () => ` # c${this.#comments++}\n`,
            () => "\n\n\n",
          );
        continue;
      }
      if (at > 0 && tokens[at - 1] !== GLUE && tokens[at - 1] !== END) text += this.#gap();
      text += token;
    }
    return `${text}${this.#gap()}`;
  }

  #gap(): string {
    const comment = (): string => `# c${this.#comments++}\n`;
    const choice = this.#draw(40);
    if (choice < 30) return " ";
    if (choice < 34) return "\n  ";
    if (choice < 36) return "\n\n\t";
    if (choice < 38) return ` ${comment()}`;
    return choice === 38 ? `\n${comment()}` : ` ${comment()}\n  ${comment()}\n`;
  }

  // Rules

  /** A rule is mentioned only by those below it, so that none depends on itself. */
  #rule(name: string): string[] {
    const [kind, tokens] = this.#pick<[WrittenRule["kind"], string[]]>(
      () => ["value", this.#valueRule(name)],
      () => ["value", this.#valueRule(name)],
      () => ["value", this.#valueRule(name)],
      () => ["set", this.#withBody([], (scope) => [name, "contains", ...this.#term(scope)])],
      () => ["object", this.#withBody([], (scope) => [name, GLUE, "[", ...this.#term(scope), "]", ":=", ...this.#term(scope)])],
      () => ["object", [name, GLUE, ".", GLUE, "a", GLUE, "[", '"b"', "]", ":=", ...this.#value()]],
      () => ["function", this.#functionRule(name)],
    );
    this.#rules.push({ name, kind });
    return tokens;
  }

  #valueRule(name: string): string[] {
    return this.#pick(
      () => [name, ":=", ...this.#term([])],
      () => [name, "if", ...this.#body([])],
      () => [name, "=", ...this.#value(), "if", ...this.#body([])],
      () => ["default", name, ":=", "false", END, name, "if", ...this.#body([])],
      () => ["default", name, ":=", "false", END, name, "if", ...this.#body([]), END, name, "if", ...this.#body([])],
      () => ["default", name, "=", ...this.#value(), END, name, "if", ...this.#body([])],
      () => [name, ":=", "1", "if", ...this.#body([]), "else", ":=", ...this.#value(), "if", ...this.#body([]), "else", "=", ...this.#value()],
      () => [name, "if", "{", ...this.#statements([]), "}", "{", ...this.#statements([]), "}"],
    );
  }

  #functionRule(name: string): string[] {
    const head = (...parameters: string[]): string[] => [name, GLUE, "(", ...parameters, ")"];
    return this.#pick(
      () => [...head("x", ",", "_"), ":=", ...this.#term(["x"]), END, `${name}_use`, ":=", ...head("1", ",", "2")],
      () => [...head("x", ",", "y"), "if", ...this.#body(["x", "y"])],
      () => [...head("x", ",", "y"), ":=", ...this.#term(["x", "y"]), "if", ...this.#body(["x", "y"]), "else", ":=", ...this.#value()],
      () => [...head("1", ",", "x"), ":=", "x", END, ...head("[", "x", ",", "_", "]", ",", "y"), ":=", ...this.#term(["x", "y"])],
      () => ["default", ...head("_", ",", "_"), ":=", ...this.#value(), END, ...head("x", ",", "2"), "if", ...this.#body(["x"])],
    );
  }

  #withBody(scope: readonly string[], head: (scope: readonly string[]) => string[]): string[] {
    const name = this.#newName();
    return [...head([...scope, name]), "if", "{", "some", name, "in", ...this.#list(scope), END, ...this.#statements(scope), "}"];
  }

  #body(scope: readonly string[]): string[] {
    if (this.#one(3)) return ["{", ...this.#statements(scope), "}"];
    return this.#one(2) ? ["{", ...this.#condition(scope), "}"] : this.#condition(scope);
  }

  #statements(outer: readonly string[]): string[] {
    const scope = [...outer];
    const tokens: string[] = [];
    const count = 1 + this.#draw(3);
    for (let at = 0; at < count; at++) {
      if (at > 0) tokens.push(END);
      tokens.push(...this.#statement(scope));
    }
    return this.#one(4) ? [...tokens, ";"] : tokens;
  }

  /** A statement; names that it declares are added to the scope. */
  #statement(scope: string[]): string[] {
    return this.#pick(
      () => this.#condition(scope),
      () => {
        const name = this.#newName();
        const tokens = [name, ":=", ...this.#term(scope)];
        scope.push(name);
        return tokens;
      },
      () => {
        const [key, value] = [this.#newName(), this.#newName()];
        const tokens = ["some", key, ",", value, "in", ...this.#list(scope)];
        scope.push(key, value);
        return tokens;
      },
      () => {
        const name = this.#newName();
        const tokens = ["some", name, END, name, "=", ...this.#list(scope), GLUE, "[", "_", "]"];
        scope.push(name);
        return tokens;
      },
      () => ["print", GLUE, "(", '"c"', ",", ...this.#term(scope), ",", ...this.#term(scope), ")"],
    );
  }

  #condition(scope: readonly string[]): string[] {
    if (this.#depth > 2) return ["true"];
    return this.#nested(() =>
      this.#pick(
        () => [
          ...this.#term(scope),
          this.#pick(
            () => "==",
            () => "!=",
            () => "<",
            () => ">=",
          ),
          ...this.#term(scope),
        ],
        () => ["not", ...this.#term(scope)],
        () => ["-1", "<", ...this.#term(scope)],
        () => ["{", "1", "}", "==", ...this.#term(scope)],
        () => [...this.#term(scope), "in", ...this.#list(scope)],
        () => ["input.n", "==", "2", "with", "input", "as", ...this.#object(scope), "with", "data.base", "as", ...this.#term(scope)],
        () => [...this.#term(scope), "==", ...this.#term(scope), "with", ...this.#replaceable(), "as", ...this.#term(scope)],
        () => {
          const name = this.#newName();
          return ["every", name, "in", ...this.#list(scope), "{", ...this.#statements([...scope, name]), "}"];
        },
      ),
    );
  }

  /** What `with` may replace. */
  #replaceable(): string[] {
    return this.#pick(
      () => ["input", GLUE, ".", GLUE, "n"],
      () => ["data", GLUE, ".", GLUE, "z", GLUE, ".", GLUE, "k"],
      () => ["count"],
      () => ["data", GLUE, ".", GLUE, "t", GLUE, ".", GLUE, this.#rules.length > 0 ? this.#rules[this.#draw(this.#rules.length)]!.name : "absent"],
    );
  }

  // Terms

  #nested<T>(make: () => T): T {
    this.#depth++;
    const made = make();
    this.#depth--;
    return made;
  }

  /** A term without variables, as defaults need it. */
  #value(): string[] {
    return this.#pick(
      () => ["1"],
      () => ['"a b"'],
      () => ["-2.50"],
      () => ["`raw\n\\n`"],
      () => ["[", "1", ",", '"x"', ",", "]"],
      () => ["{", '"k"', ":", "null", ",", "2", ":", "[", "]", "}"],
      () => ["{", "1", "}"],
      () => ["set", GLUE, "(", ")"],
      () => ["true"],
      () => ["false"],
    );
  }

  #list(scope: readonly string[]): string[] {
    return this.#pick(
      () => ["[", "1", ",", "2", ",", ...this.#term(scope), "]"],
      () => ["input", GLUE, "[", '"list"', "]"],
      () => ["[", "1", ",", "3", "]"],
    );
  }

  #object(scope: readonly string[]): string[] {
    return ["{", '"n"', ":", "2", ",", '"list"', ":", ...this.#term(scope), ",", "}"];
  }

  #term(scope: readonly string[]): string[] {
    if (this.#depth > 3) return ["1"];
    return this.#nested(() =>
      this.#pick(
        () => this.#value(),
        () => (scope.length > 0 ? [scope[this.#draw(scope.length)]!] : ["7"]),
        () => this.#mention(scope),
        () => this.#mention(scope),
        () => ["input", GLUE, "[", '"list"', "]", GLUE, "[", "0", "]"],
        () => ["input", GLUE, ".", GLUE, "o", GLUE, "[", '"if"', "]"],
        () => ["data", GLUE, ".", GLUE, "base", GLUE, "[", "0", "]"],
        () => ["data", GLUE, ".", GLUE, "z", GLUE, ".", GLUE, "k"],
        () => [...this.#term(scope), this.#operator(), ...this.#term(scope)],
        () => ["(", ...this.#term(scope), this.#operator(), ...this.#term(scope), ")"],
        () => ["[", ...this.#term(scope), ",", ...this.#term(scope), "]"],
        () => ["{", ...this.#term(scope), "|", ...this.#term(scope), ",", "}"],
        () => ["{", '"k"', ":", ...this.#term(scope), "}"],
        () => ["count", GLUE, "(", ...this.#list(scope), ")"],
        () => ["sprintf", GLUE, "(", '"%v %d"', ",", "[", ...this.#term(scope), ",", ...this.#term(scope), "]", ")"],
        () => ["object", GLUE, ".", GLUE, "get", GLUE, "(", ...this.#object(scope), ",", ...this.#term(scope), ",", ...this.#value(), ")"],
        () => ["regex", GLUE, ".", GLUE, "match", GLUE, "(", '"^[a-z ]+$"', ",", ...this.#term(scope), ")"],
        () => this.#object(scope),
        () => ['$"n {input.n} \\{ {[1, 2]}"'],
        () => {
          const name = this.#newName();
          const inner = [...scope, name];
          return ["[", ...this.#term(inner), "|", "some", name, "in", ...this.#list(scope), END, ...this.#statements(inner), "]"];
        },
        () => ["{", ...this.#term(scope), "|", ...this.#statements(scope), "}"],
        () => ["{", '"c"', ":", ...this.#term(scope), "|", ...this.#statements(scope), "}"],
      ),
    );
  }

  /** A rule by its name, or what is in it. */
  #mention(scope: readonly string[]): string[] {
    if (this.#rules.length === 0) return ["8"];
    const { name, kind } = this.#rules[this.#draw(this.#rules.length)]!;
    if (kind === "function") return [name, GLUE, "(", ...this.#term(scope), ",", ...this.#term(scope), ")"];
    return this.#pick(
      () => [name],
      () => ["data", GLUE, ".", GLUE, "t", GLUE, ".", GLUE, name],
      () => (kind === "value" ? [name] : [name, GLUE, "[", ...this.#term(scope), "]"]),
    );
  }

  #operator(): string {
    return this.#pick(
      () => "+",
      () => "-",
      () => "*",
      () => "|",
      () => "&",
      () => "==",
      () => "/",
      () => "in",
    );
  }
}
