import "edition/page.css";
import logo from "edition/logo.svg";
import { edition, greeting } from "edition/words.js";

document.querySelector("#title").textContent = greeting;
document.querySelector("#logo").src = logo;
document.body.dataset.edition = edition;

// The cart is a chunk of its own, with its own style and picture: nothing of it is asked for before the click.
document.querySelector("#open").addEventListener("click", async () => {
  const section = document.querySelector("#cart");
  try {
    const { show } = await import("./cart.js");
    await show(section);
    section.dataset.state = "open";
  } catch (error) {
    console.error(`the cart cannot be shown: ${error}`);
    section.dataset.state = "failed";
  }
});
