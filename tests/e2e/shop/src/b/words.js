export const edition = "b";
export const greeting = "Welcome back: this is edition b";
export const items = ["pears", "cheese", "olives"];
