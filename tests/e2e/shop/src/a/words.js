export const edition = "a";
export const greeting = "Welcome: this is edition a";
export const items = ["apples", "bread"];
